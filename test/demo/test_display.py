import io

from demo.records import snapshot_at
from rich.console import Console

from dynamic_ofa_ros.demo.display import LineDisplay, LiveDisplay, open_display


def test_lines_come_once_a_second_events_at_once():
    now_s = [0.0]
    console = Console(file=io.StringIO(), width=80)
    display = LineDisplay(console, lambda: now_s[0])
    for tick in range(26):
        now_s[0] = tick * 0.1
        display.show(snapshot_at(20.0))
    display.close()
    lines = console.file.getvalue().splitlines()
    assert sum('level 1/5' in line for line in lines) == 3
    assert sum('$ ros2 param set' in line for line in lines) == 1
    assert sum('level 3 -> 1: because' in line for line in lines) == 1


def test_without_a_terminal_lines_are_printed():
    assert isinstance(open_display(Console(file=io.StringIO())), LineDisplay)


def test_on_a_terminal_the_view_is_drawn_and_the_screen_given_back():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    display = open_display(console)
    assert isinstance(display, LiveDisplay)
    display.show(snapshot_at(20.0))
    display.close()
    output = console.file.getvalue()
    assert output.index('\x1b[?1049h') < output.index('scenario') < output.index('\x1b[?1049l')
    # Drawn over, never cleared in between: no flicker.
    assert '\x1b[2J' not in output.split('scenario', 1)[1].split('\x1b[?1049l')[0]
