"""Write into the Helm chart what it takes from other places; called by scripts/sync-chart.

The chart has copies, because Flux packs no symbolic links and `helm package` warns of them.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "func"))

from user_service.settings import PARSERS  # noqa: E402 - the path comes first

CHART = ROOT / "charts" / "user-service"
SCHEMA = CHART / "values.schema.json"
COPIES = {
    CHART / "files/dashboard.json": ROOT / "k8s-common/components/monitoring/dashboard.json",
    CHART / "files/prometheusrule.yaml": ROOT / "k8s-common/components/monitoring/prometheusrule.yaml",
    CHART / "files/smoke_test.py": ROOT / "scripts/smoke_test.py",
}
# Settings that are read beside the parsers: the parts of a URL.
PARTS = {"POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB", "POSTGRES_USER", "REDIS_HOST", "REDIS_PORT"}
# A secret belongs into the Secret, and so does a URL that may have a password.
SECRET = re.compile(r"(^|_)(KEYS?|PASSWORD|SECRETS?)$|^(DATABASE|DATABASE_READ|REDIS)_URL$")
# The chart or Knative sets these.
GIVEN = {"PORT", "SERVE", "K_SINK", "K_CE_OVERRIDES", "K_CA_CERTS", "DATA_DIR"}


def setting_names() -> list[str]:
    """The settings that the chart accepts under `settings`."""
    names = {name.upper() for name in PARSERS} | PARTS
    return sorted(name for name in names - GIVEN if not SECRET.search(name))


def contents() -> dict[Path, str]:
    """What each written file must hold."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"]["propertyNames"]["anyOf"][0]["enum"] = setting_names()
    copies = {target: source.read_text(encoding="utf-8") for target, source in COPIES.items()}
    return {SCHEMA: json.dumps(schema, indent=2) + "\n", **copies}


def stale_files() -> dict[Path, str]:
    """The files that are out of date, with what they must hold."""
    return {
        path: text for path, text in contents().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main(arguments: list[str]) -> int:
    stale = stale_files()
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} {'is out of date; run scripts/sync-chart' if arguments else 'written'}")
        if not arguments:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--check"}:
        sys.exit("usage: scripts/sync-chart [--check]")
    sys.exit(main(sys.argv[1:]))
