"""Classify camera images with sub-networks of a Once-for-all supernet, chosen at run time."""

import pkgutil
import sys

# The generated messages (`dynamic_ofa_ros.msg`) are not installed in the folder of these modules:
# colcon puts both folders on PYTHONPATH, `scripts/set_up.py` uses the virtual environment.
__path__ = [
    *pkgutil.extend_path(__path__, __name__),
    f'{sys.prefix}/lib/dynamic_ofa_ros/python/dynamic_ofa_ros',
]

__version__ = '0.1.0'
