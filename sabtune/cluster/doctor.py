"""Looks for what is wrong: on this machine, on every node of its cluster, in the stores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import sqlalchemy

from sabtune.cluster import node_facts
from sabtune.cluster.capacity import HEAD
from sabtune.cluster.findings import Finding, find_problems
from sabtune.cluster.local_ray import check_limits, folder_base, prepare_token
from sabtune.cluster.node_facts import NodeFacts
from sabtune.cluster.ray_session import check_answers, cluster_address, left_in_peace, living, there
from sabtune.databases import file_problem, sqlite_path
from sabtune.errors import ClusterError, SabtuneError
from sabtune.redaction import hide_password, redact
from sabtune.storage.store import Store
from sabtune.tracking.reach import problem_of

PATIENCE = 90.0
"""Seconds that a node has to answer in: its first worker loads torch."""

ROUNDS = 3
"""How often a clock is asked; the quickest answer counts."""


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """What every node told, and what is wrong. `cluster`: they are those of a cluster."""

    nodes: Sequence[NodeFacts]
    findings: Sequence[Finding]
    cluster: bool

    @property
    def well(self) -> bool:
        return not any(finding.wrong for finding in self.findings)


def see(store: Store) -> HealthCheck:
    """Of the cluster that this process is on, or else of this machine."""
    files = str(store.files) if store.files else None
    folders = {"home": "~", "Ray": node_facts.ray_folder(), "the store": str(store.root)}
    address = cluster_address()
    own = node_facts.examine(folders, files)
    nodes, found = [own], list(stores(store))
    if address is not None:
        try:
            with _connected(address):
                nodes = ask_all(living(), {**folders, "the store": "~"}, files)
                nodes = [replace(nodes[0], disks=own.disks), *nodes[1:]]
        except ClusterError as problem:
            found.insert(0, of_ray(problem))
        except (ConnectionError, RuntimeError, ValueError) as problem:
            found.insert(0, no_cluster(problem))
    else:
        found += own_ray()
    found += find_problems(nodes, files=files, cluster=address is not None)
    ordered = sorted(found, key=lambda finding: not finding.wrong)
    return HealthCheck(nodes=nodes, findings=ordered, cluster=address is not None)


def own_ray() -> Iterator[Finding]:
    """What would keep a search from starting a Ray on this machine."""
    for check in (prepare_token, folder_base, check_limits):
        try:
            check()
        except ClusterError as problem:
            yield of_ray(problem)


def of_ray(problem: ClusterError) -> Finding:
    """A problem of starting or joining Ray: its last part is the remedy."""
    says, _, remedy = str(problem).rpartition(": ")
    return Finding(where="Ray", says=says, remedy=remedy)


def no_cluster(problem: Exception) -> Finding:
    """One line for what Ray says in many when it can't be joined."""
    words = redact(" ".join(str(problem).split()))
    if "ersion mismatch" in words:
        remedy = "use the cluster's Ray and Python here: constraints.txt has them"
    elif "uthentica" in words or "token" in words.lower():
        remedy = "set RAY_AUTH_MODE=token, and copy the cluster's token to ~/.ray/auth_token"
    else:
        remedy = "start it with `ray up`, or unset RAY_ADDRESS"
    return Finding(where="cluster", says=f"can't be joined: {words[:300]}", remedy=remedy)


def stores(store: Store) -> Iterator[Finding]:
    """What is wrong with the databases of trials and of MLflow."""
    for name, url in (("Optuna's database", store.optuna_url), ("MLflow's", store.mlflow_uri)):
        if url.startswith(("http://", "https://")):
            continue
        words = database_problem(url)
        if words:
            yield Finding(
                where="store",
                says=f"{name} {hide_password(url)} can't be used: {words}",
                remedy="check the address, that the server is up, and that you may write there",
            )
    words = problem_of(store.mlflow_uri)
    if words:
        yield Finding(
            where="MLflow", says=words, remedy="start it, or name another with --tracking"
        )


def database_problem(url: str) -> str:
    """Why a database can't be written, or "". A SQLite file that isn't there yet is no problem."""
    path = sqlite_path(url)
    if path is not None:
        return file_problem(path) if path.exists() else ""
    kind = sqlalchemy.make_url(url)
    if kind.drivername == "postgresql":
        kind = kind.set(drivername="postgresql+psycopg")
    patience = {"connect_timeout": 10} if kind.drivername.startswith("postgresql") else {}
    engine = sqlalchemy.create_engine(kind, connect_args=patience)
    try:
        with engine.connect() as connection:
            asked = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
            may = connection.exec_driver_sql(asked).scalar()
            read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
        return "" if may and not read_only else "it may only be read"
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as problem:
        cause = getattr(problem, "orig", None) or problem
        return redact(" ".join(str(cause).split()), url)[:200]
    finally:
        engine.dispose()


@contextmanager
def _connected(address: str) -> Iterator[None]:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    check_answers(address)
    with left_in_peace():
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        yield


def ask_all(
    nodes: Sequence[Mapping[str, Any]], folders: Mapping[str, str], files: str | None
) -> list[NodeFacts]:
    """Every node's own checkup, asked of all at once, and how its clock goes."""
    examine = ray.remote(max_retries=0)(_examine)
    asked = [examine.options(**there(node)).remote(dict(folders), files) for node in nodes]
    ray.wait(asked, num_returns=len(asked), timeout=PATIENCE)
    return [_answer(node, answer) for node, answer in zip(nodes, asked, strict=True)]


def offset(ask: Callable[[], float], clock: Callable[[], float] = time.time) -> tuple[float, float]:
    """How far another clock is ahead of ours in s, and what that is certain to: half of the time
    that the quickest of a few questions took."""
    best = (0.0, float("inf"))
    for _ in range(ROUNDS):
        sent = clock()
        theirs = ask()
        came = clock()
        within = (came - sent) / 2
        if within < best[1]:
            best = (theirs - (sent + came) / 2, within)
    return best


def _examine(folders: dict[str, str], files: str | None) -> NodeFacts:
    return node_facts.examine(folders, files)


def _now() -> float:
    return time.time()


def _answer(node: Mapping[str, Any], answer: Any) -> NodeFacts:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    resources = node["Resources"]
    known = {
        "node": name,
        "head": HEAD in resources,
        "declared": resources.get("GPU", 0.0),
    }
    try:
        told: NodeFacts = ray.get(answer, timeout=1)
        tell = ray.remote(max_retries=0)(_now).options(**there(node))
        ahead, within = offset(lambda: float(ray.get(tell.remote(), timeout=PATIENCE)))
    except ray.exceptions.GetTimeoutError:
        return NodeFacts(**known, unreachable=f"no answer within {PATIENCE:.0f} s")
    except (ray.exceptions.RayError, SabtuneError, ImportError) as problem:
        words = [line for line in str(problem).splitlines() if line.strip()]
        return NodeFacts(**known, unreachable=(words or [type(problem).__name__])[-1].strip())
    return replace(told, **known, offset=ahead, within=within)
