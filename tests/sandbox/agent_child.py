"""An agent with a sandbox, as a process of its own: cells come in by line, answers go out."""

import dataclasses
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from privnb import wire
from privnb.site.sandbox import Failed, Sandbox, SandboxLimits


def main(settings):
    from sandboxes import PACKAGES, cell, take

    bubblewrap, workers = settings.pop("bubblewrap"), settings.pop("workers")
    training = settings.pop("training", 0)
    scratch = Path(settings.pop("scratch")) if "scratch" in settings else None
    limits = SandboxLimits(**settings)
    with Sandbox.open(
        packages=PACKAGES,
        limits=limits,
        workers=workers,
        training=training,
        scratch=scratch,
        _bubblewrap=bubblewrap,
    ) as sandbox:
        say({"level": sandbox.level, "pid": os.getpid()})
        for line in sys.stdin:
            asked = json.loads(line)
            if "steps" in asked:
                say(take(sandbox, asked))
                continue
            tables = None if asked.pop("visits") else {}
            asked["parameters"] |= {"agent": os.getpid()}
            ended = sandbox.run(cell(**asked, tables=tables))
            if isinstance(ended, Failed):
                say({"failed": dataclasses.asdict(ended)})
            else:
                say({"output": wire.encode(ended.output).decode(), "seconds": ended.seconds})


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
