"""What a test asks for to get PostgreSQL: a database, a server of its own, several, and a directory for all users."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.embedded.account import Account, unprivileged
from highlanderd.embedded.installation import Installation, installation_at, installed, pick, reachable
from highlanderd.errors import HighlanderError
from tests.support.postgres import DISK, Cluster, Clusters, Database, Server, passable_directory, throwaway_place


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which PostgreSQL the tests run against."""
    group = parser.getgroup("postgres")
    group.addoption(
        "--pg-bin", metavar="DIR", help="programs of another PostgreSQL, such as /usr/lib/postgresql/15/bin"
    )
    group.addoption("--pg-dsn", metavar="DSN", help="a running server for the tests that share one, as its superuser")


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A short directory that every user may pass."""
    with passable_directory(throwaway_place()) as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_account() -> Account:
    """The user that servers run as."""
    return unprivileged()


@pytest.fixture(scope="session")
def postgres_programs(request: pytest.FixtureRequest, postgres_account: Account) -> Iterator[Installation]:
    """The programs that servers are made with. Without any, the whole run stops here."""
    chosen = request.config.getoption("--pg-bin")
    with passable_directory(DISK) as shelf:
        if postgres_account.foreign:
            os.chown(shelf, postgres_account.uid, postgres_account.gid)
        try:
            if chosen:
                programs = installation_at(Path(chosen).resolve().parent)
            else:
                programs = reachable(pick(installed(), None), postgres_account, shelf)
        except HighlanderError as error:
            pytest.exit(f"No test can run without a PostgreSQL server: {error}", returncode=4)
        yield programs


@pytest.fixture(scope="session")
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all tests that leave it alone."""
    if dsn := request.config.getoption("--pg-dsn"):
        yield Server(dsn)
        return
    programs, account = request.getfixturevalue("postgres_programs"), request.getfixturevalue("postgres_account")
    place = throwaway_place()
    with passable_directory(place) as directory, contextlib.closing(Clusters(programs, account, directory)) as clusters:
        yield clusters.create()


@pytest.fixture
def database(shared_cluster: Server) -> Iterator[Database]:
    """A fresh database on the shared server."""
    database = shared_cluster.database()
    yield database
    database.drop()


@pytest.fixture
def clusters(postgres_programs: Installation, postgres_account: Account) -> Iterator[Clusters]:
    """Servers of the test's own."""
    with (
        passable_directory(throwaway_place()) as directory,
        contextlib.closing(Clusters(postgres_programs, postgres_account, directory)) as made,
    ):
        yield made


@pytest.fixture
def cluster(clusters: Clusters) -> Cluster:
    """One server of the test's own: it may be stopped, killed and paused."""
    return clusters.create()
