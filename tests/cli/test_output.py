"""What is shown while a command works."""

import io
from contextlib import redirect_stderr

from flagdeploy.cli import output
from flagdeploy.records.events import Event


def test_lines_of_other_programs_are_shown_as_they_are() -> None:
    """Brackets are no markup: `[/b]` would be an error, `[bold]` would vanish."""
    shown = io.StringIO()
    with redirect_stderr(shown), output._bars() as report:
        report(Event("checkpoint", "[worker 1] progress [/b] [bold]", "192.0.2.1"))
        report(Event("checkpoint", "[worker 1] shards [/b]", "192.0.2.1", done=1, total=2))
    assert "[192.0.2.1] [worker 1] progress [/b] [bold]\n" in shown.getvalue()
