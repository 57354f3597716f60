"""The code blocks of the documentation, and why some of them are not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {
    page.name: page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
}

CLUSTER = "needs a cluster: tests/test_cluster.py runs such commands on hosts of its own"
CLOUD = "needs an account in a cloud: tests/test_cluster_aws.py simulates EC2"
SLURM = "needs a Slurm cluster: tests/test_slurm.py submits such jobs to one of its own"
LOGIN = "needs the account of a cluster"
SYSTEMD = "needs a user's systemd: tests/test_unattended.py has systemd verify the unit"
KUBERNETES = "needs a Kubernetes cluster: tests/test_unattended.py validates the manifest"
SERIES = "as long as a search of every baseline: tests/test_all_baselines.py runs one of two"
OBJECTS = "BUCKET and FILE stand for yours: tests/test_object_storage.py has a server of its own"
DATABASE = "FILE, DIR and the servers stand for yours: tests/test_postgres.py starts a server"

UNRUN = {
    "sabtune search search_spaces/copying.py --baseline all": SERIES,
    "make test": "runs these tests",
    "sabtune data fetch mnist ptb": "needs the internet: tests/test_fetch.py serves the files",
    "ray up cluster.local.yaml": CLUSTER,
    "sabtune search search_spaces/copying.py --cluster cluster.local.yaml": CLUSTER,
    "sabtune status --cluster cluster.local.yaml": CLUSTER,
    "sabtune status copying --cluster cluster.local.yaml": CLUSTER,
    "sabtune status copying --cluster cluster.local.yaml --follow": CLUSTER,
    "sabtune stop copying --cluster cluster.local.yaml": CLUSTER,
    "sabtune ui --cluster cluster.local.yaml": CLUSTER,
    "sabtune report copying --cluster cluster.local.yaml": CLUSTER,
    "ray down cluster.local.yaml": CLUSTER,
    "aws cloudformation deploy --stack-name sabtune --template-file docs/aws.yaml "
    "--capabilities CAPABILITY_NAMED_IAM --parameter-overrides SshFrom=YOUR.IP.AD.DR/32": CLOUD,
    "aws cloudformation describe-stacks --stack-name sabtune --query 'Stacks[0].Outputs'": CLOUD,
    "sabtune doctor --cluster cluster.yaml": CLOUD,
    "ray up cluster.yaml": CLOUD,
    "sabtune search search_spaces/copying.py --cluster cluster.yaml": CLOUD,
    "ray down cluster.yaml": CLOUD,
    "export SABTUNE_VENV=~/studies/.venv": SLURM,
    "sbatch slurm.sbatch search_spaces/copying.py": SLURM,
    "sbatch --nodes=4 --gres=gpu:2 slurm.sbatch search_spaces/copying.py --hours 20": SLURM,
    "sbatch --nodes=2 --gres=gpu:1 slurm.sbatch doctor": SLURM,
    "sabtune status copying --follow": LOGIN,
    "ssh -t -L 5000:127.0.0.1:5000 LOGIN 'cd studies && .venv/bin/sabtune ui copying'": LOGIN,
    "mkdir -p ~/.config/systemd/user": SYSTEMD,
    "cp docs/sabtune@.service ~/.config/systemd/user/": SYSTEMD,
    "systemctl --user daemon-reload": SYSTEMD,
    "systemctl --user enable --now sabtune@copying": SYSTEMD,
    "loginctl enable-linger": SYSTEMD,
    "journalctl --user --unit sabtune@copying --follow": SYSTEMD,
    "systemctl --user stop sabtune@copying": SYSTEMD,
    "make wheel && docker build -t REGISTRY/sabtune -f docs/Dockerfile . "
    "&& docker push REGISTRY/sabtune": KUBERNETES,
    "kubectl create configmap sabtune-studies --from-file=search_spaces/copying.py": KUBERNETES,
    "kubectl apply -f docs/rayjob.yaml": KUBERNETES,
    "kubectl get rayjob sabtune-copying --watch": KUBERNETES,
    "export SABTUNE_FILES=s3://BUCKET/PREFIX": OBJECTS,
    "sabtune search FILE": OBJECTS,
    "sabtune search FILE --store postgresql://user@host/database --files DIR "
    "--tracking http://host:5000": DATABASE,
}
"""The commands of the documentation that no test runs as they are printed, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    page: the name of its file. line: the number of its first line.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def all_blocks() -> list[Block]:
    """Return the fenced code blocks of all pages, in their order."""
    found = []
    for name, page in PAGES.items():
        text = page.read_text()
        fences = re.finditer(r"^ *```([^\n`]*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        for fence in fences:
            line = text[: fence.start(2)].count("\n") + 1
            found.append(Block(name, line, fence[1], fence[2]))
    return found


def measurements() -> list[str]:
    """Return the commands above the results of pages: the indented blocks.

    They made the numbers below them, in minutes to days.
    """
    lines = []
    for page in PAGES.values():
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for found in re.findall(r"(?<=\n\n)(?: {4}.*\n)+(?=\n)", text):
            lines += commands(re.sub(r"^ {4}", "", found, flags=re.MULTILINE))
    return lines


def block(page: str, start: str) -> str:
    """Return the text of the only block of a page that starts with `start`.

    A test that calls this with two literals runs that block.
    """
    (found,) = (each for each in all_blocks() if each.page == page and each.text.startswith(start))
    return found.text


def commands(text: str) -> list[str]:
    """Return the commands of a shell block, without comments and with continued lines joined."""
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    without = (re.sub(r"(^|\s+)#.*$", "", line) for line in lines)
    return [line for line in without if line]


def arguments(command: str) -> list[str]:
    """Return the arguments of a command of sabtune, after the name of the program."""
    program, *words = shlex.split(command)
    assert program == "sabtune", command
    return [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
