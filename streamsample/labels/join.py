"""The natural-label join of one task: predictions wait for their feedback until their windows close.

Pure: arrays in, columns out; no I/O, no clock, no random numbers. Time moves only by `on_watermark`.

Why the result does not depend on arrival (A2), for disorder within G:
- A prediction's input partition has one order, its offsets. Two rows of one id whose times differ by at most the
  largest window + skew are one prediction, and the first by offset stays. It is still held when the second one comes:
  the watermark is then at most `p2.ts + G`, so at most `p1.ts + window + skew + G`. Hence the spans
  [p.ts - skew, p.ts + window] of an id's rows never overlap, and a feedback belongs to at most one row, whichever of
  the two comes first.
- Feedback that fits no held row waits until no prediction that it fits can come; a new row takes what waits for it.
- A row keeps all its matched feedback, and the choice among it is made once, at the close, by event time and place.
- What a waiting feedback was (late or orphan) is decided at its expiry, before any row that matters is forgotten: a
  row is held until the watermark passes `p.ts + window + G + late_horizon + skew`. (Orphan or pre_causal may depend on
  how far the input was read ahead; both label nothing.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import InvariantError
from streamsample.gather import packed
from streamsample.labels import ledger as books
from streamsample.labels import snapshots
from streamsample.labels.agenda import Agenda, in_order
from streamsample.labels.choice import rule_table
from streamsample.labels.coverage import NO_GAP, Coverage, coverage_of
from streamsample.labels.delta import Delta, RowColumns
from streamsample.labels.incoming import any_beyond, ascends, beyond_limits, side_by_side, uses_of_each
from streamsample.labels.ledger import Ledger
from streamsample.labels.matches import Matches, apply_feedback, free_chains
from streamsample.labels.results import DUPLICATE, LATE, LIMIT, NEW, Codes, Counts, Lost, Settled
from streamsample.labels.revise import Moments, build_revised
from streamsample.labels.row_kernels import LATE_ROW, REFUSED_ROW, find_rows, insert_rows
from streamsample.labels.rows import Rows
from streamsample.labels.settings import ID_BYTES_MAX, JoinSettings
from streamsample.labels.settle import build_settled
from streamsample.labels.space import PayloadSpace
from streamsample.labels.tables import HELD, INDEXED, LOG, OPEN_ROWS, WRITTEN, FeedbackBatch, PredictionBatch, Times
from streamsample.labels.waiting import Waiting
from streamsample.labels.watermark import MIN
from streamsample.records import Bools, Int32s, Int64s, Spans

_BUCKETS = 16
_BUCKETS_MAX = 4096
_BUCKET_MS_MIN = 1000
_NEVER = -(2**62)


class LabelJoin:
    """The join of one task (one partition number). Not thread-safe; deterministic.

    Call order: any interleaving of `on_predictions` and `on_feedback`, each source's batches in offset order, and
    `on_watermark` whenever the watermark has moved (after the batches that moved it). At a commit: `snapshot_delta`.
    """

    def __init__(self, settings: JoinSettings, space: PayloadSpace | None = None) -> None:
        """space: where the rows' payload lies; default: in memory."""
        self.settings = settings
        self.ledger = Ledger(
            tuple(target.name for target in settings.targets), tuple(use.target for use in settings.uses)
        )
        self.watermark = MIN
        """The last watermark given; `watermark.MIN` before the first."""
        self.settled_before = _NEVER
        """Every row with `ts < settled_before` has been settled; a prediction from before it is late."""
        self.released_before = _NEVER
        """Rows with `ts < released_before` give no record any more: no correction either."""
        span = settings.reach_ms + settings.hold_ms
        width = max(_BUCKET_MS_MIN, settings.reach_ms // _BUCKETS, span // _BUCKETS_MAX)
        self._rows = Rows(width, PayloadSpace() if space is None else space)
        self._matches = Matches(settings, self.ledger)
        self._waiting = Waiting(self._matches.width, keeps_originals=settings.keeps_lost)
        self._lost: list[Lost] = []
        self._uses = [settings.uses_of(feedback) for _, feedback in settings.source_list]
        self._rules = rule_table(settings)
        self._agenda = Agenda(settings) if settings.revises else None
        self._gaps = [NO_GAP for _ in settings.uses]
        self._written: list[NDArray[Any]] = []
        self._times = self._times_at()
        self._last_place = (-1, -1)
        self._rewrites: list[tuple[int, int]] = []

    def on_predictions(
        self,
        offsets: Int64s,
        ts: Int64s,
        ids: Spans,
        hashes: NDArray[np.uint64],
        payload: Spans,
        schema: NDArray[np.int16],
        split: NDArray[np.int8],
        index: NDArray[np.int16] | None = None,
    ) -> Codes:
        """Take n predictions in offset order; what became of each: uint8[n] of NEW, DUPLICATE, LATE or LIMIT.

        ts: event times in ms. ids: canonical id bytes, no nulls. hashes: the ids' 64-bit hashes. payload: opaque bytes,
        copied (null allowed). index: the prediction's place inside its Kafka record, default 0; (offset, index)
        ascends. Feedback that waits for these predictions is matched at once. LATE and LIMIT rows are the caller's to
        dead-letter.
        """
        count = len(offsets)
        if not count:
            return np.empty(0, np.uint8)
        index = np.zeros(count, np.int16) if index is None else index
        self._check_predictions(offsets, index, ids)
        slots, buckets = self._rows.place(ts, self._refused(ts, ids))
        batch = PredictionBatch(offsets, index, ts, hashes, ids.buffer, ids.start, ids.size, schema, split, slots)
        handles = self._insert(batch, len(buckets), self._times)
        new = np.flatnonzero(handles >= 0)
        self._rows.store_payload(buckets, slots, new, handles, payload)
        self._rows.keep_open(buckets, self.settled_before)
        if self._agenda is not None:
            self._agenda.on_rows(ts, handles, self._now())
        if len(self._waiting):
            self._pick_up(handles)
        codes = np.maximum(-handles, 0).astype(np.uint8) if len(new) < count else np.zeros(count, np.uint8)
        self._book_predictions(codes, len(new))
        return codes

    def on_feedback(
        self,
        source: int,
        offsets: Int64s,
        ts: Int64s,
        ids: Spans,
        hashes: NDArray[np.uint64],
        values: Sequence[Int64s],
        valid: Sequence[Bools] | None = None,
        feedback_ids: NDArray[np.uint64] | None = None,
        index: NDArray[np.int16] | None = None,
        not_sampled: Bools | None = None,
        originals: Callable[[Int64s], Spans] | None = None,
    ) -> Codes:
        """Take n feedback events of `source` in offset order. What nothing could use: uint8[n], LATE, ORPHAN or
        PRE_CAUSAL of the ledger's columns, and 0 for all other, some of which may be lost later (`take_lost`).

        source: index into `settings.source_list`. ids: the ids of the predictions that they refer to, no nulls; hashes:
        of those ids. values, valid: one column per use of this feedback, in the order of `settings.uses_of`; values are
        8-byte bits as int64[n], for an undo that names what it undoes the hash of that feedback's id; valid (default
        all True) False means no value: counted dropped{no_value}. feedback_ids: hashes of the events' own ids (default:
        their source, offset and index); one that comes twice is a duplicate.
        originals: the bytes of those at some indices, to be handed back should they wait in vain.
        not_sampled: True where the design cannot have kept the prediction: counted, takes no memory.
        """
        count, uses = len(offsets), self._uses[source]
        fate = np.zeros(count, np.uint8)
        if not count or not uses:
            return fate
        if len(values) != len(uses) or (valid is not None and len(valid) != len(uses)):
            raise ValueError(f"source {source} has {len(uses)} uses, but {len(values)} value columns came")
        if ids.size.min() < 0:
            raise ValueError("a feedback refers to a null id: dead-letter it before the join")
        index = np.zeros(count, np.int16) if index is None else index
        if feedback_ids is None:
            place = (offsets.astype(np.uint64) << np.uint64(15)) | index.astype(np.uint64)
            feedback_ids = place ^ (np.uint64(source) << np.uint64(57))
        mask = uses_of_each(self.ledger, uses, count, valid, not_sampled, ts, ids)
        batch = FeedbackBatch(
            np.full(count, source, np.int32),
            offsets, index, ts, feedback_ids, hashes, ids.buffer, ids.start, ids.size,
            mask, side_by_side(values, self._matches.width),
        )  # fmt: skip
        found = np.empty(count, np.int64)
        find_rows(self._rows.table, self._times, hashes, ids.buffer, ids.start, ids.size, ts, found)
        live = mask != 0
        fits = np.flatnonzero((found >= 0) & live)
        fate[fits[self._apply(batch, fits, found[fits])]] = books.LATE
        if len(fits) < count:
            gone = self._keep_waiting(batch, np.flatnonzero((found < 0) & live), found, originals)
            fate[gone] = -found[gone]
        return fate

    def on_watermark(self, watermark: int, covered_from: Int64s | None = None) -> Settled:
        """Settle every row with `p.ts + largest window + G < watermark`, expire waiting feedback, forget dead rows.

        covered_from: int64[sources], the event time from which each source was readable (default: always).
        A watermark that is not larger than the last one does nothing.
        """
        if watermark <= self.watermark:
            return self._settle(np.empty(0, np.int64), coverage_of(self.settings, None, self._gaps))
        expired = self._waiting.take_expired(max(_NEVER, watermark - self.settings.wait_ms))
        if len(expired):
            self._expire(expired)
        before = max(self.settled_before, watermark - self.settings.reach_ms)
        closing = self._rows.take_closing(self.settled_before, before)
        settled_before = self.settled_before
        self.watermark, self.settled_before = watermark, before
        released = watermark - self.settings.reach_ms - self.settings.corrections_ms
        self.released_before = max(self.released_before, min(before, released))
        self._times = self._times_at()
        coverage = coverage_of(self.settings, covered_from, self._gaps)
        if self._agenda is None:
            settled = self._settle(closing, coverage)
        else:
            settled = self._revise(self._agenda, closing, settled_before, coverage)
        self._rows.close(before)
        self._rows.release(self.released_before, None if self._agenda is None else self._free_matches)
        self._rows.forget(self._times.dead_before)
        self._matches.shrink()
        return settled

    def _settle(self, closing: Int64s, coverage: Coverage) -> Settled:
        return build_settled(self.settings, self._rows, self._matches, self._rules, self.ledger, closing, coverage)

    def _revise(self, agenda: Agenda, closing: Int64s, settled_before: int, coverage: Coverage) -> Settled:
        """Look at the rows on the agenda and at those that close."""
        times, handles = agenda.take_before(self._now())
        handles = np.concatenate([handles, closing])
        times = np.concatenate([times, self._rows.table.rows["ts"][closing] + self.settings.window_ms])
        held = self._rows.columns(handles)
        times, handles = in_order(times, handles, held.ts, held.offset, held.within)
        moments = Moments(times, handles, settled_before, coverage)
        settled = build_revised(self.settings, self._rows, self._matches, self._rules, self.ledger, moments)
        written = np.zeros(len(settled), WRITTEN)
        columns = (settled.offset, settled.ts, settled.revision + 1, settled.index)
        for name, column in zip(WRITTEN.names or (), columns, strict=True):
            written[name] = column
        if len(written):
            self._written.append(written)
        return settled

    def _free_matches(self, handles: Int64s) -> None:
        if self._matches.held:
            free_chains(self._rows.table, self._matches.table, handles)

    def _now(self) -> int:
        """What takes effect before it has been decided on."""
        return max(_NEVER, self.watermark - self.settings.grace_ms)

    def next_deadline(self) -> int | None:
        """The watermark up to which (inclusive) `on_watermark` settles and expires nothing. None: nothing is open."""
        row, feedback = self._rows.first_open(), self._waiting.first()
        times = [] if row is None else [row + self.settings.reach_ms]
        look = None if self._agenda is None else self._agenda.first()
        times += [] if look is None else [look + self.settings.grace_ms]
        if feedback is not None:
            times.append(feedback + self.settings.wait_ms)
        return min(times, default=None)

    def rewrite(self, up_to_offset: int, from_offset: int = 0) -> None:
        """Put old rows into the next delta again, so that the older deltas that hold them can go.

        Those with `from_offset <= offset <= up_to_offset` that are still needed, with their matches and payload, and
        all waiting feedback.

        A delta can go when the rows that it holds were rewritten since: its matches of other rows are then in newer
        deltas too (those rows were themselves rewritten after the match), and its waiting feedback as well.
        """
        self._rewrites.append((from_offset, up_to_offset))

    def snapshot_delta(self) -> Delta:
        """What changed since the last call (or since `restore`). The newest delta must always be kept: it has the
        watermark and the ledger. Deltas with `needed_until` < watermark are not needed for a restore.
        """
        rewrites, self._rewrites = self._rewrites, []
        written, self._written = np.concatenate([np.empty(0, WRITTEN), *self._written]), []
        delta = snapshots.take(
            self.settings, self.ledger, self.watermark, self._times,
            self._rows, self._matches, self._waiting, written, rewrites, self._gaps,
        )  # fmt: skip
        # Not before: the delta would read back what is in a file.
        self._rows.keep_limit()
        return delta

    def restore(self, deltas: Sequence[Delta], read_until: Int64s | None = None) -> None:
        """Rebuild the state from deltas, oldest first, into a fresh join. Raises StateError.

        Targets, rules and feedback are found by name, so windows may have changed and targets and rules may have come
        or gone. read_until: int64[sources], the largest event time that was read of each source, MIN before the first
        (the default): rows that a new rule or a longer window does not know all feedback of are not labelled by silence
        (see `coverage`).
        """
        if self.watermark != MIN or self._rows.buckets or len(self._waiting):
            raise InvariantError("restore into a join that is in use", remedy="restore into a fresh LabelJoin")
        if not deltas:
            return
        last = deltas[-1]
        self.watermark, self.settled_before = last.watermark, last.settled_before
        self.released_before = last.released_before
        self._times = self._times_at()
        merged = snapshots.merged_rows(deltas, self._times.dead_before)
        if len(merged.columns.ts):
            self._restore_rows(merged.columns, merged.payload)
        logged = snapshots.merged_matches(deltas, self.settings)
        handles = snapshots.rows_of(logged, self._rows, self.released_before)
        fits = self._still_fits(logged, handles)
        logged, handles = logged[fits], handles[fits]
        self._matches.load(self._rows.table.rows, handles, logged)
        snapshots.restore_revisions(deltas, self._rows, self.released_before)
        if self._agenda is not None:
            self._restore_agenda(self._agenda, logged, handles)
        self._restore_waiting(*snapshots.merged_waiting(deltas, self.settings, self._matches.width))
        self._gaps = snapshots.gaps_after(self.settings, last, self._matches, read_until)
        ts = merged.columns.ts
        closed = int(np.count_nonzero((ts >= self.released_before) & (ts < self.settled_before)))
        waiting = self._waiting_by_use()
        snapshots.restore_ledger(self.ledger, last, self.settings, self.counts().open_rows, closed, waiting)
        for bucket in self._rows.buckets.values():
            bucket.saved = int(self._rows.table.buckets["rows"][bucket.slot])
        self._waiting.take_fresh()
        self._matches.take_log()

    def close(self) -> None:
        """Give memory and files back. Nothing can be asked of the join any more."""
        self._rows.free()

    def check(self) -> None:
        """Raise InvariantError when a conservation law (A18) does not hold."""
        self.ledger.check(int(self._rows.table.counts[OPEN_ROWS]), self._waiting_by_use())

    def counts(self) -> Counts:
        """How full the join is. Cheap."""
        counts = self._rows.table.counts
        return Counts(
            open_rows=int(counts[OPEN_ROWS]),
            held_rows=int(counts[HELD]),
            waiting=len(self._waiting),
            matches=self._matches.held,
            payload_bytes=sum(bucket.segment.bytes_used for bucket in self._rows.buckets.values()),
            index_entries=int(counts[INDEXED]),
            buckets=len(self._rows.buckets),
        )

    @property
    def touched(self) -> int:
        """Rows looked at to settle and to forget them since the beginning: what closing windows has cost (A17)."""
        return self._rows.touched + (0 if self._agenda is None else self._agenda.touched)

    def state_bytes(self) -> int:
        """Bytes of memory in use, slack that was never touched left out."""
        held = self._rows.bytes_used() + self._matches.bytes_used() + self._waiting.bytes_used()
        return held + (0 if self._agenda is None else self._agenda.bytes_used())

    def _times_at(self) -> Times:
        settings = self.settings
        return Times(
            skew=settings.skew_ms,
            window=settings.span_ms,
            overlap=settings.span_ms + settings.skew_ms,
            late=settings.window_ms + max(settings.late_horizon_ms, settings.corrections_ms),
            settled_before=self.settled_before,
            released_before=self.released_before,
            dead_before=max(_NEVER, self.watermark - settings.reach_ms - settings.hold_ms),
            open_rows_max=settings.limits.open_rows,
        )

    def _check_predictions(self, offsets: Int64s, index: NDArray[np.int16], ids: Spans) -> None:
        if ids.size.min() < 0:
            raise ValueError("a prediction has a null id: dead-letter it before the join")
        if self.settings.any_order:
            return
        if not ascends(offsets, index, self._last_place):
            raise InvariantError(
                f"predictions at offset {offsets[0]} do not follow offset {self._last_place[0]}",
                remedy="give each source's batches in offset order, each record once",
            )
        self._last_place = (int(offsets[-1]), int(index[-1]))

    def _refused(self, ts: Int64s, ids: Spans) -> Int32s | None:
        """Why each prediction is refused at once (negative), 0 where it is not; None when none is."""
        if ts.min() >= self.settled_before and not any_beyond(ts, ids):
            return None
        late, beyond = ts < self.settled_before, beyond_limits(ts, ids)
        return np.where(beyond, REFUSED_ROW, np.where(late, LATE_ROW, 0)).astype(np.int32)

    def _insert(self, batch: PredictionBatch, buckets: int, times: Times) -> Int32s:
        self._rows.reserve(len(batch.ts), int(np.minimum(batch.id_size, ID_BYTES_MAX).sum()), buckets)
        handles = np.empty(len(batch.ts), np.int32)
        insert_rows(self._rows.table, times, *batch, handles)
        return handles

    def _book_predictions(self, codes: Codes, new: int) -> None:
        seen = np.bincount(codes, minlength=LIMIT + 1)
        self.ledger.predictions += (len(codes), seen[DUPLICATE], seen[LATE])
        self.ledger.rows[:, books.ROWS_IN] += new + seen[LIMIT]
        self.ledger.rows[:, books.OPEN] += seen[NEW]
        self.ledger.rows[:, books.ROW_LIMIT] += seen[LIMIT]

    def _apply(self, batch: FeedbackBatch, picks: Int64s, handles: Int64s) -> Bools:
        """Give feedback to its rows; which of the picks was too late for all of its uses."""
        late = np.zeros(len(picks), np.bool_)
        self._matches.reserve(len(picks) * self._matches.width)
        now, logged = self._now(), int(self._matches.table.counts[LOG])
        apply_feedback(self._rows.table, self._matches.table, self.released_before, now, *batch, picks, handles, late)
        if self._agenda is not None:
            self._agenda.on_matched(self._matches.table.log[logged : self._matches.table.counts[LOG]], now)
        return late

    def _keep_waiting(
        self, batch: FeedbackBatch, picks: Int64s, found: Int64s, originals: Callable[[Int64s], Spans] | None
    ) -> Int64s:
        """Let feedback without a row wait; which cannot be waited for, booked as what `found` says."""
        expired = batch.ts[picks] < self.watermark - self.settings.wait_ms
        gone = picks[expired]
        if len(gone):
            self._book(batch.source[picks], batch.mask[picks], -found[picks], expired)
            picks = picks[~expired]
        room = max(0, self.settings.limits.waiting - len(self._waiting))
        what = np.full(len(picks), books.WAITING)
        what[room:] = books.FEEDBACK_LIMIT
        self._book(batch.source[picks], batch.mask[picks], what)
        if len(picks[:room]):
            keeps = self.settings.keeps_lost and originals is not None
            self._waiting.add(batch, picks[:room], originals(picks[:room]) if keeps and originals else None)
        return gone

    def _pick_up(self, handles: Int32s) -> None:
        """Give new rows the feedback that waited for them."""
        batch, rows, originals = self._waiting.take_for(
            self._rows.table, handles, self.settings.skew_ms, self.settings.span_ms
        )
        if len(rows):
            self._book(batch.source, batch.mask, np.full(len(rows), books.WAITING), sign=-1)
            late = np.flatnonzero(self._apply(batch, np.arange(len(rows)), rows))
            self._lose(batch, np.full(len(rows), books.LATE), originals, late)

    def _expire(self, handles: Int64s) -> None:
        """Book waiting feedback whose prediction cannot come any more, and forget it."""
        batch = self._waiting.batch_of(handles)
        found = np.empty(len(handles), np.int64)
        find_rows(self._rows.table, self._times, batch.hash, batch.ids, batch.id_start, batch.id_size, batch.ts, found)
        if bool((found >= 0).any()):
            raise InvariantError("a waiting feedback fits a held row", remedy="this is a bug: please report it")
        self._book(batch.source, batch.mask, np.full(len(found), books.WAITING), sign=-1)
        self._book(batch.source, batch.mask, -found)
        self._lose(batch, -found, self._waiting.originals_of(handles), np.arange(len(found)))
        self._waiting.drop(handles)

    def _lose(self, batch: FeedbackBatch, what: Int64s, originals: Spans, at: Int64s) -> None:
        """Keep what is to be handed back."""
        if self.settings.keeps_lost and len(at):
            mine = originals.take(at)
            kept = packed(mine.buffer, mine.start, mine.size)
            self._lost.append(Lost(batch.source[at].astype(np.int64), what[at], batch.offset[at], kept))

    def take_lost(self) -> list[Lost]:
        """Feedback that waited in vain since the last call, if the settings want it back."""
        lost, self._lost = self._lost, []
        return lost

    def _book(
        self, source: Int32s, mask: NDArray[np.uint32], what: Int64s, where: Bools | None = None, sign: int = 1
    ) -> None:
        """Count feedback by what it is, for every use in its mask."""
        for number, uses in enumerate(self._uses):
            mine = source == number if where is None else (source == number) & where
            if not mine.any():
                continue
            for k, use in enumerate(uses):
                used = mine & ((mask >> np.uint32(k)) & np.uint32(1) == 1)
                self.ledger.feedback[use] += sign * np.bincount(what[used], minlength=len(books.FEEDBACK_COLUMNS))

    def _waiting_by_use(self) -> Int64s:
        return self._waiting.counts_by_use(self._matches.table.uses, len(self.settings.uses))

    def _restore_rows(self, rows: RowColumns, payload: Sequence[tuple[Int64s, Spans]]) -> None:
        slots, buckets = self._rows.place(rows.ts, None)
        batch = PredictionBatch(
            rows.offset, rows.index, rows.ts, rows.hash.astype(np.uint64) << np.uint64(32),
            rows.ids.buffer, rows.ids.start, rows.ids.size,
            rows.schema, rows.split, slots,
        )  # fmt: skip
        handles = self._insert(batch, len(buckets), self._times._replace(overlap=-1, open_rows_max=2**62))
        for mine, spans in payload:
            kept = np.flatnonzero(rows.ts[mine] >= self.released_before)
            self._rows.store_payload(buckets, slots[mine], kept, handles[mine], spans)
            self._rows.keep_limit()
        self._rows.table.rows["revision"][handles] = rows.revision
        self._rows.close(self.settled_before)
        self._rows.release(self.released_before)
        self._last_place = (int(rows.offset[-1]), int(rows.index[-1]))

    def _still_fits(self, logged: NDArray[Any], handles: Int64s) -> Bools:
        """Which matched feedback is on a row that may need it, within the windows as they are now."""
        ts, table = self._rows.table.rows["ts"][handles], self._matches.table
        inside = logged["ts"] - ts <= table.reach[logged["use"]]
        return np.asarray((handles >= 0) & inside & (logged["at"] - ts <= table.until[logged["use"]]))

    def _restore_agenda(self, agenda: Agenda, logged: NDArray[Any], handles: Int64s) -> None:
        table = self._rows.table.rows
        logged["row"], logged["row_ts"] = handles, table["ts"][handles]
        agenda.on_matched(logged, self._now())
        for bucket in self._rows.buckets.values():
            rows = self._rows.handles(bucket)
            agenda.on_rows(table["ts"][rows], rows, self._now())

    def _restore_waiting(self, batch: FeedbackBatch, originals: Spans) -> None:
        """Let restored feedback wait again, but for what has expired and what a row has taken since."""
        found = np.empty(len(batch.ts), np.int64)
        find_rows(self._rows.table, self._times, batch.hash, batch.ids, batch.id_start, batch.id_size, batch.ts, found)
        still = np.flatnonzero((found < 0) & (batch.ts >= self.watermark - self.settings.wait_ms) & (batch.mask != 0))
        if len(still):
            self._waiting.add(batch, still, originals.take(still))
