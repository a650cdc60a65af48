"""Installs one service with only its extra and imports all of it: `python tests/isolation.py NAME`.

A module that leans on another service's dependency works in the full environment and fails in
its image; this finds it before the image is built.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORT_ALL = """
import importlib, pkgutil, sys
failed = []
import services.{service} as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if module.name.endswith("__main__") and module.name.count(".") > 2:
        continue
    try:
        importlib.import_module(module.name)
    except Exception as error:
        failed.append(f"{{module.name}}: {{error!r}}")
print(f"{service}: {{len(failed)}} modules failed", *failed, sep="\\n  ")
sys.exit(bool(failed))
"""


def main(service: str) -> int:
    """Make a throw-away environment, install, import; gives the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "venv" / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", str(Path(folder) / "venv")], check=True)
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        install = (
            [uv, "pip", "install", "--quiet", "--python", python]
            if uv
            else [python, "-m", "pip", "install", "--quiet"]
        )
        # Versions as locked; the lock holds every extra, so it serves as a constraint here.
        constraints = Path(folder) / "constraints.txt"
        text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        pins = [line.split(" \\")[0] for line in text.splitlines() if line[:1].isalnum()]
        constraints.write_text("\n".join(pins), encoding="utf-8")
        target = f"{ROOT}[{service}]"
        subprocess.run([*install, "--constraint", constraints, target], check=True)
        code = IMPORT_ALL.format(service=service)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [python, "-c", code], check=False, cwd=folder, env=environment
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
