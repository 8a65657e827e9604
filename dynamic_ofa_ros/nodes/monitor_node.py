"""monitor_node: a web page that shows the classifiers of the ROS graph, and sets their parameters.

Wiring only. The page's server has a thread of its own; everything of ROS runs on the main thread.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rclpy.node import Node

from dynamic_ofa_ros.monitor.access import access_for
from dynamic_ofa_ros.monitor.collector import Collector
from dynamic_ofa_ros.monitor.records import Records
from dynamic_ofa_ros.monitor.server import PageServer
from dynamic_ofa_ros.nodes import parameters
from dynamic_ofa_ros.nodes.parameter_table import NodeParameters
from dynamic_ofa_ros.nodes.runner import forward_logging, run, stop_forwarding


class MonitorNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """Serves the page."""

    def __init__(self, node_name: str = 'monitor', **options: Any) -> None:
        super().__init__(node_name, **options)
        self._log_forwarder = forward_logging(self)
        settings: NodeParameters[Mapping[str, Any]] = NodeParameters(self, dict, _nothing_changes)
        values = settings.declare(parameters.MONITOR)
        settings.activate()
        records = Records()
        self._collector = Collector(
            self, records, values['picture.max_width'], values['picture.rate_hz']
        )
        self._server = PageServer(
            access_for(values['address'], values['token']),
            values['port'],
            records,
            self._collector.set_watching,
            self._collector.set_parameter,
        )

    def start(self) -> None:
        """Begin to serve the page, and say where."""
        self._server.start()
        self.get_logger().info(f'open {self._server.url}')

    def close(self) -> None:
        """End the server."""
        self._server.close()
        self._collector.close()
        stop_forwarding(self._log_forwarder)


def _nothing_changes(before: Any, after: Any) -> None:
    """Do nothing: every parameter is read-only."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return the exit status."""
    return run('monitor', MonitorNode, args)


if __name__ == '__main__':
    sys.exit(main())
