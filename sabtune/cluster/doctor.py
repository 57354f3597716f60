"""Checks of this machine, every node of its cluster, and the databases of a store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray

from sabtune.cluster import node_facts
from sabtune.cluster.capacity import HEAD_RESOURCE
from sabtune.cluster.findings import ONE_SEARCH, Finding, find_problems
from sabtune.cluster.local_ray import check_limits, folder_base, prepare_token
from sabtune.cluster.node_facts import NodeFacts
from sabtune.cluster.ray_session import (
    check_answers,
    cluster_address,
    left_in_peace,
    live_nodes,
    pinned_options,
)
from sabtune.databases import is_wal
from sabtune.errors import ClusterError, SabtuneError
from sabtune.redaction import hide_password, redact
from sabtune.storage import locking
from sabtune.storage.database import database_at
from sabtune.storage.store import Store
from sabtune.tracking.reach import problem_of

ANSWER_SECONDS = 90.0
"""Seconds that a node has to answer. The first answer takes long, because it must load torch."""

NETWORK = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "wekafs", "panfs")
) | {"fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"}
"""Types of file systems that several machines share."""

LOCAL_LOCKS = frozenset(
    ("nolock", "localflock", "local_lock=all", "local_lock=flock", "local_lock=posix")
)
"""Options of mounts, of NFS and Lustre, whose locks hold on one machine only."""

CLOCK_ROUNDS = 3
"""How many times a clock is read; the quickest answer counts."""


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """The facts of every node, and the findings. cluster: whether the nodes form a cluster."""

    nodes: Sequence[NodeFacts]
    findings: Sequence[Finding]
    cluster: bool

    @property
    def well(self) -> bool:
        """Whether no finding is a problem; notices are allowed."""
        return not any(finding.wrong for finding in self.findings)


def see(store: Store) -> HealthCheck:
    """Check the store, and the cluster that this process is on or, without one, this machine."""
    files = str(store.files) if store.files else None
    folders = {"home": "~", "Ray": node_facts.ray_folder(), "the store": str(store.root)}
    address = cluster_address()
    own = node_facts.examine(folders, files)
    nodes, findings = [own], list(store_findings(store))
    if address is not None:
        try:
            with _connected(address), _locked(store) as locks:
                nodes = ask_all(live_nodes(), {**folders, "the store": "~"}, files, locks)
                nodes = [replace(nodes[0], disks=own.disks), *nodes[1:]]
        except ClusterError as problem:
            findings.insert(0, ray_finding(problem))
        except (ConnectionError, RuntimeError, ValueError) as problem:
            findings.insert(0, no_cluster(problem))
    else:
        findings += own_ray()
    shared = str(store.place) if store.place.path else None
    findings += find_problems(nodes, files=files, cluster=address is not None, shared=shared)
    ordered = sorted(findings, key=lambda finding: not finding.wrong)
    return HealthCheck(nodes=nodes, findings=ordered, cluster=address is not None)


def own_ray() -> Iterator[Finding]:
    """Find what would prevent a search from starting Ray on this machine."""
    for check in (prepare_token, folder_base, check_limits):
        try:
            check()
        except ClusterError as problem:
            yield ray_finding(problem)


def ray_finding(problem: ClusterError) -> Finding:
    """Return the finding for an error in starting or joining Ray.

    The remedy is the last part of the error's message, after a colon.
    """
    says, _, remedy = str(problem).rpartition(": ")
    return Finding(where="Ray", says=says, remedy=remedy)


def no_cluster(problem: Exception) -> Finding:
    """Return the finding, on one line, for a cluster that can't be joined."""
    words = redact(" ".join(str(problem).split()))
    if "ersion mismatch" in words:
        remedy = "use the cluster's Ray and Python here: constraints.txt lists them"
    elif "uthentica" in words or "token" in words.lower():
        remedy = "set RAY_AUTH_MODE=token, and copy the cluster's token to ~/.ray/auth_token"
    else:
        remedy = "start it with `ray up`, or unset RAY_ADDRESS"
    return Finding(where="cluster", says=f"can't be joined: {words[:300]}", remedy=remedy)


def store_findings(store: Store) -> Iterator[Finding]:
    """Find problems of Optuna's and MLflow's databases."""
    for name, url in (("Optuna's database", store.optuna_url), ("MLflow's", store.mlflow_uri)):
        if url.startswith(("http://", "https://")):
            continue
        words = database_at(url).problem()
        if words:
            yield Finding(
                where="store",
                says=f"{name} {hide_password(url)} can't be used: {words}",
                remedy="check the address, that the server is up, and that you may write there",
            )
    if store.database is None:
        yield from _lock_findings(store)
    words = problem_of(store.mlflow_uri)
    if words:
        yield Finding(
            where="MLflow", says=words, remedy="start it, or give another with --tracking"
        )


def _lock_findings(store: Store) -> Iterator[Finding]:
    """Find a network file system that doesn't lock the store's SQLite files for all machines."""
    folder = node_facts.existing(store.root)
    kind, options = node_facts.mount(folder)
    words = locking.problem(folder) if kind in NETWORK else ""
    if words:
        yield Finding(
            where="store",
            says=f"files in {folder} ({kind}) can't be locked: {words}",
            remedy="mount it with locks (Lustre with flock), or give --store postgresql://…",
        )
    if options & LOCAL_LOCKS:
        yield Finding(where="store", says=f"{folder} ({kind}) keeps locks to one machine",
                      remedy=ONE_SEARCH, wrong=False)  # fmt: skip
    if kind in NETWORK:
        for path in (store.root / "optuna.db", store.root / "mlflow.db"):
            if is_wal(path):
                yield Finding(
                    where="store",
                    says=f"{path} is in SQLite's WAL mode, which fails on {kind}",
                    remedy=f"""run sqlite3 {path} "PRAGMA journal_mode = DELETE" """.strip(),
                )


@contextmanager
def _locked(store: Store) -> Iterator[dict[str, str] | None]:
    """Lock files where the store has its checkpoints, and yield their paths by the kind of lock.

    Yields None if the store's files are in an object store or can't be locked.
    """
    with ExitStack() as stack:
        locks = None
        if store.place.path is not None:
            with suppress(OSError):
                folder = node_facts.existing(store.place.path)
                locks = stack.enter_context(locking.held_locks(folder))
        yield locks


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster, without Ray's log."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    check_answers(address)
    with left_in_peace():
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        yield


def ask_all(
    nodes: Sequence[Mapping[str, Any]],
    folders: Mapping[str, str],
    files: str | None,
    locks: dict[str, str] | None = None,
) -> list[NodeFacts]:
    """Examine all nodes at the same time, and return their facts, including their clocks."""
    examine = ray.remote(max_retries=0)(_examine)
    answers = [
        examine.options(**pinned_options(node)).remote(dict(folders), files, locks)
        for node in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
    return [_facts(node, answer) for node, answer in zip(nodes, answers, strict=True)]


def offset(ask: Callable[[], float], clock: Callable[[], float] = time.time) -> tuple[float, float]:
    """Measure how many seconds another clock is ahead of ours.

    ask: returns the other clock's time. clock: returns our time. Returns the offset and its
    uncertainty, in seconds. The uncertainty is half of the time that the quickest answer took.
    """
    best = (0.0, float("inf"))
    for _ in range(CLOCK_ROUNDS):
        sent = clock()
        theirs = ask()
        received = clock()
        within = (received - sent) / 2
        if within < best[1]:
            best = (theirs - (sent + received) / 2, within)
    return best


def _examine(folders: dict[str, str], files: str | None, locks: dict[str, str] | None) -> NodeFacts:
    return node_facts.examine(folders, files, locks)


def _now() -> float:
    return time.time()


def _facts(node: Mapping[str, Any], answer: Any) -> NodeFacts:
    """Return the facts of a node. If it gives no answer, `unreachable` is the reason."""
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    resources = node["Resources"]
    from_ray = {
        "node": name,
        "head": HEAD_RESOURCE in resources,
        "declared": resources.get("GPU", 0.0),
        "cpus": resources.get("CPU", 0.0),
        "memory": resources.get("memory", 0.0) + resources.get("object_store_memory", 0.0),
    }
    try:
        facts: NodeFacts = ray.get(answer, timeout=1)
        now = ray.remote(max_retries=0)(_now).options(**pinned_options(node))
        ahead, within = offset(lambda: float(ray.get(now.remote(), timeout=ANSWER_SECONDS)))
    except ray.exceptions.GetTimeoutError:
        return NodeFacts(**from_ray, unreachable=f"no answer within {ANSWER_SECONDS:.0f} s")
    except (ray.exceptions.RayError, SabtuneError, ImportError) as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        return NodeFacts(**from_ray, unreachable=(lines or [type(problem).__name__])[-1].strip())
    return replace(facts, **from_ray, offset=ahead, within=within)
