"""Judges the hosts of a DSN as a set: which take writes, which are standbys, which do not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from highlanderd.doctor.facts import AskedHost
from highlanderd.doctor.findings import Finding, fine, problem, warning
from highlanderd.postgres import fitness


def judge_hosts(hosts: Sequence[AskedHost]) -> Iterator[Finding]:
    """Return the findings about each host, and about all of them together."""
    hosts = _hosts(hosts)
    greeted = [host for host in hosts if host.server_facts is not None]
    primaries = [host for host in greeted if host.server_facts and not host.server_facts.standby]
    if len(primaries) > 1:
        yield _several(primaries)
    if not primaries and greeted:
        yield problem(f"{_names(greeted)}: {fitness.STANDBY}")
    for host in hosts:
        if host.refusal:
            yield _refused(host, alone=not greeted)
        elif primaries and host not in primaries:
            yield _standby(host, primaries[0])


def _hosts(hosts: Sequence[AskedHost]) -> list[AskedHost]:
    """Return each host once: one with several addresses is as good as the best of them."""
    best: dict[str, AskedHost] = {}
    for host in hosts:
        if host.place not in best or best[host.place].refusal:
            best[host.place] = host
    return [*best.values()]


def _refused(host: AskedHost, *, alone: bool) -> Finding:
    where = f"{host.place}: " if host.place else ""
    if alone:
        return problem(f"{where}{host.refusal}")
    return warning(f"{where}{host.refusal}; a failover to this host would stop every program")


def _standby(host: AskedHost, primary: AskedHost) -> Finding:
    ours, theirs = host.server_facts, primary.server_facts
    if ours is not None and theirs is not None and ours.system != theirs.system:
        return problem(f"{host.place} is no standby of {primary.place}, but of another system; take it out of the dsn")
    return fine(f"{host.place} is a hot standby, and would be found after a failover")


def _several(primaries: Sequence[AskedHost]) -> Finding:
    """Return the finding about several primaries: an old one still runs, or they are of different systems."""
    systems = {host.server_facts.system for host in primaries if host.server_facts}
    if len(systems) > 1:
        return problem(
            f"{_names(primaries)} are primaries of different systems, and nodes would lead on each of them; name one "
            "primary and its standbys in the dsn"
        )
    oldest = min(primaries, key=lambda host: host.server_facts.timeline if host.server_facts else 0)
    return problem(
        f"{_names(primaries)} are all primaries of one system, so two nodes may lead: a failover left the old one "
        f"running; stop {oldest.place}, which is on the oldest timeline"
    )


def _names(hosts: Sequence[AskedHost]) -> str:
    return ", ".join(host.place or "the server" for host in hosts)
