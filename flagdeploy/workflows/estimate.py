"""How long will a conversion take? What a dry run can measure without writing anything."""

from collections.abc import Sequence

from flagdeploy.checkpoint.native import kernel
from flagdeploy.checkpoint.trial import measure
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.records.sizes import duration, readable

# Shards that are tried, spread over all: two may lie on different disks or differ in kind.
_TRIED = 4


def estimate(
    plan: ConversionPlan, names: Sequence[str], workers: int, *, in_place: bool = False
) -> str:
    """A line about the time that converting the shards `names` takes at least.

    Reading and converting overlap, so the slower of them counts. In place, everything is read and
    converted once more to be compared, and the output read back.
    """
    if not names:
        return "time: nothing to convert"
    # A shard of constants tells nothing.
    held = [name for name in names if plan.jobs.sizes[name][0]]
    tried = [held[index * len(held) // _TRIED] for index in range(min(_TRIED, len(held)))]
    speed = measure(map(plan.jobs.of, dict.fromkeys(tried)), plan.source)
    if not speed.sample:
        return "time: too little to convert to measure anything"
    read, written = (sum(plan.jobs.sizes[name][i] for name in names) for i in (0, 1))
    # Of the shards that are left, about their share.
    whole = sum(source for source, _ in plan.jobs.sizes.values())
    converted = plan.jobs.converted_bytes * read / whole
    passes = 2 if in_place else 1
    seconds = (passes * read + (written if in_place else 0)) / speed.read
    how = [f"reading at {readable(int(speed.read))}/s ({readable(speed.sample)} read cold)"]
    if speed.convert:
        rate = speed.convert * workers
        seconds = max(seconds, passes * converted / rate)
        threads = f"{workers} thread(s), {kernel()} kernel, tried for a moment"
        how.append(f"converting at {readable(int(rate))}/s ({threads})")
    return (
        f"time: at least {duration(seconds)}: {', '.join(how)}; writing is not measured: "
        f"{readable(written)} take {duration(written / 1e9)} at 1 GB/s"
    )
