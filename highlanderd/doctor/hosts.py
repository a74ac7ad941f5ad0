"""Judgement on the hosts of a DSN as a set: who takes writes, who stands by, who does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from highlanderd.doctor.facts import Site
from highlanderd.doctor.findings import Finding, fine, problem, warning
from highlanderd.postgres import fitness


def judge_sites(sites: Sequence[Site]) -> Iterator[Finding]:
    """Say what is to be said about each host, and about all of them together."""
    sites = _hosts(sites)
    greeted = [site for site in sites if site.server_facts is not None]
    primaries = [site for site in greeted if site.server_facts and not site.server_facts.standby]
    if len(primaries) > 1:
        yield _several(primaries)
    if not primaries and greeted:
        yield problem(f"{_names(greeted)}: {fitness.STANDBY}")
    for site in sites:
        if site.refusal:
            yield _refused(site, alone=not greeted)
        elif primaries and site not in primaries:
            yield _standby(site, primaries[0])


def _hosts(sites: Sequence[Site]) -> list[Site]:
    """A host with several addresses is as good as the best of them."""
    best: dict[str, Site] = {}
    for site in sites:
        if site.place not in best or best[site.place].refusal:
            best[site.place] = site
    return [*best.values()]


def _refused(site: Site, *, alone: bool) -> Finding:
    where = f"{site.place}: " if site.place else ""
    if alone:
        return problem(f"{where}{site.refusal}")
    return warning(f"{where}{site.refusal}; a failover to this host would stop every program")


def _standby(site: Site, primary: Site) -> Finding:
    ours, theirs = site.server_facts, primary.server_facts
    if ours is not None and theirs is not None and ours.system != theirs.system:
        return problem(f"{site.place} is no standby of {primary.place}, but of another system; take it out of the dsn")
    return fine(f"{site.place} is a hot standby, and would be found after a failover")


def _several(primaries: Sequence[Site]) -> Finding:
    """Several primaries: an old one that nobody stopped, or servers that have nothing to do with each other."""
    systems = {site.server_facts.system for site in primaries if site.server_facts}
    if len(systems) > 1:
        return problem(
            f"{_names(primaries)} are primaries of different systems, and nodes would lead on each of them; name one "
            "primary and its standbys in the dsn"
        )
    oldest = min(primaries, key=lambda site: site.server_facts.timeline if site.server_facts else 0)
    return problem(
        f"{_names(primaries)} are all primaries of one system, so two nodes may lead: a failover left the old one "
        f"running; stop {oldest.place}, which is on the oldest timeline"
    )


def _names(sites: Sequence[Site]) -> str:
    return ", ".join(site.place or "the server" for site in sites)
