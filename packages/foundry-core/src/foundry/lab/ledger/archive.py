"""What was learnt: configs, noise, evidence, decisions, and the lineage of baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from foundry.core.digest import digest
from foundry.lab.ledger import rows
from foundry.lab.ledger.reader import Reader
from foundry.lab.ledger.records import (
    Decision,
    Evidence,
    ExperimentRow,
    Generation,
    Json,
    Noise,
    Refusal,
    StaleBaseline,
)
from foundry.lab.ledger.store import Store


class Archive:
    """The half of the ledger that outlives its runs."""

    _store: Store | Reader

    def record_config(
        self,
        identity: str,
        experiment: Json,
        parent: str | None,
        mutations: Sequence[tuple[str, str]],
        changes: Sequence[str],
    ) -> None:
        """An experiment that takes part, and how it came about. The first record of an identity stays."""
        lists = {"mutations": [list(each) for each in mutations], "changes": list(changes)}
        data = {"identity": identity, "experiment": dict(experiment), "parent": parent, **lists}
        with self._store.transaction() as record:
            if self.config(identity) is None:
                record("config_recorded", data)

    def config(self, identity: str) -> ExperimentRow | None:
        found = self._store.rows("SELECT * FROM config WHERE identity = ?", (identity,))
        return rows.config(found[0]) if found else None

    def configs(self) -> list[ExperimentRow]:
        """Every experiment that took part, oldest first."""
        return [rows.config(row) for row in self._store.rows("SELECT * FROM config ORDER BY created, rowid")]

    def record_refusal(self, sweep: str, arm: str, reason: str, changes: Sequence[str] = ()) -> None:
        """An arm that cannot be trained, once per sweep and arm."""
        with self._store.transaction() as record:
            if all(refusal.arm != arm for refusal in self.refusals(sweep)):
                record("arm_refused", {"sweep": sweep, "arm": arm, "reason": reason, "changes": list(changes)})

    def refusals(self, sweep: str | None = None) -> list[Refusal]:
        where = "WHERE sweep = ?" if sweep else ""
        found = self._store.rows(f"SELECT * FROM refusal {where} ORDER BY seq", (sweep,) if sweep else ())
        return [rows.refusal(row) for row in found]

    def record_noise(self, noise: Noise) -> None:
        """A measurement of the spread between seeds. One with the same figures, or of the same group with no more
        runs than before, is the same measurement."""
        group = noise.group or digest(noise.sigma, noise.df, noise.runs)[:16]
        with self._store.transaction() as record:
            there = [n.runs for n in self._noise(noise.context) if (n.metric, n.group) == (noise.metric, group)]
            if not there or there[0] < noise.runs:
                data = asdict(replace(noise, group=group))
                del data["created"]
                record("noise_measured", data)

    def noise(self, context: str) -> Noise | None:
        """Everything measured in a context, pooled: sigma^2 is the mean of the variances, weighted by their degrees of
        freedom; the group is the first one's. None: nothing was measured there."""
        parts = self._noise(context)
        df = sum(part.df for part in parts)
        if not df:
            return None
        sigma = math.sqrt(sum(part.df * part.sigma**2 for part in parts) / df)
        runs, newest = sum(part.runs for part in parts), max(part.created for part in parts)
        return Noise(parts[0].metric, context, sigma, df, runs, newest, parts[0].group)

    def noises(self) -> list[Noise]:
        """What `noise` says of every context that was measured in, oldest first."""
        contexts = self._store.rows("SELECT context FROM noise GROUP BY context ORDER BY min(created)")
        return [noise for row in contexts if (noise := self.noise(row[0])) is not None]

    def _noise(self, context: str) -> list[Noise]:
        """Each measurement by itself."""
        found = self._store.rows('SELECT * FROM noise WHERE context = ? ORDER BY created, "group"', (context,))
        return [Noise(**dict(row)) for row in found]

    def evidence(self, generation: int, baseline: str, candidate: str, metric: str, basis: str = "") -> Evidence:
        """What is known of a pair; no differences where nothing is."""
        found = self._store.rows(
            "SELECT * FROM evidence WHERE (generation, baseline, candidate, metric, basis) = (?, ?, ?, ?, ?)",
            (generation, baseline, candidate, metric, basis),
        )
        return rows.evidence(found[0]) if found else Evidence(generation, baseline, candidate, metric, basis=basis)

    def evidence_on(self, decision: Decision, control: str) -> Evidence | None:
        """What a decision rests on, and what came to it later.

        Args:
            control: the identity of the arm that the candidate was compared with.
        """
        found = self._store.rows(
            "SELECT * FROM evidence WHERE (generation, baseline, candidate, metric) = (?, ?, ?, ?)"
            " ORDER BY rowid DESC LIMIT 1",
            (decision.generation, control, decision.candidate, decision.metric),
        )
        return rows.evidence(found[0]) if found else None

    def add_evidence(self, evidence: Evidence, *, anew: bool = False) -> None:
        """Remember more differences of a pair; no more than there are already change nothing. The terms of the first
        stay.

        Args:
            anew: what failed was trained again: others replace those that are known.
        """
        pair = (evidence.generation, evidence.baseline, evidence.candidate, evidence.metric, evidence.basis)
        with self._store.transaction() as record:
            known = self.evidence(*pair)
            if len(evidence.differences) > len(known.differences) or (anew and evidence != known):
                record("evidence_grew", replace(evidence, terms=known.terms or evidence.terms).to_json())

    # ----------------------------------------------------------------------------------------------------------------
    # Decisions and baselines

    def decide(self, decision: Decision) -> None:
        """Keep a decision. The first one of an id stays."""
        data = asdict(decision)
        del data["created"]
        with self._store.transaction() as record:
            if self.decision(decision.id) is None:
                record("decided", data)

    def decision(self, id: str) -> Decision | None:
        return next(iter(self.decisions(id=id)), None)

    def decisions(self, **where: Any) -> list[Decision]:
        """The decisions whose fields have these values, oldest first: `decisions(sweep=..., verdict="reject")`."""
        tests = " AND ".join(f"{rows.decision_field(name)} = ?" for name in where) or "1"
        found = self._store.rows(f"SELECT * FROM decision WHERE {tests} ORDER BY seq", list(where.values()))
        return rows.decisions(found)

    def baseline(self) -> Generation | None:
        """The newest generation."""
        found = self._store.rows("SELECT * FROM generation ORDER BY number DESC LIMIT 1")
        return rows.generation(found[0]) if found else None

    def generations(self) -> list[Generation]:
        """The whole lineage, oldest first."""
        return [rows.generation(row) for row in self._store.rows("SELECT * FROM generation ORDER BY number")]

    def promote(self, expected: int | None, new: Generation) -> Generation:
        """Make `new` the baseline if generation `expected` still is (None: if there is none yet). A decision that was
        promoted already gives the same generation again.

        Args:
            new: its number is the next one, unless it brings a greater one; its predecessor is `expected`; its time is
                now, unless it brings one.

        Raises:
            StaleBaseline: another generation is the baseline now.
        """
        with self._store.transaction() as record:
            lineage = self.generations()
            for earlier in lineage:
                if new.decision and earlier.decision == new.decision:
                    return earlier
            current = lineage[-1].number if lineage else None
            if current != expected:
                raise StaleBaseline(expected, current)
            number = max(new.number, 0 if current is None else current + 1)
            record("baseline_set", asdict(replace(new, number=number, previous=current)))
            return self.generations()[-1]

    def rendered(self, number: int) -> None:
        """experiments/baseline.yaml holds this generation: what differs from it from now on is an edit by hand."""
        with self._store.transaction() as record:
            record("baseline_rendered", {"number": number})
