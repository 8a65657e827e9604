"""Classify a camera stream with whichever sub-network of an OFA supernet fits the moment."""

import pkgutil
import sys

# The generated messages (`dynamic_ofa_ros.msg`) are installed in another folder than these
# modules: by colcon beside them on PYTHONPATH, by `scripts/set_up.py` in the virtual environment.
__path__ = [
    *pkgutil.extend_path(__path__, __name__),
    f'{sys.prefix}/lib/dynamic_ofa_ros/python/dynamic_ofa_ros',
]

__version__ = '0.1.0'
