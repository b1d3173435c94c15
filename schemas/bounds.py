"""Every limit of the language, in one place. Units are in the names."""

from __future__ import annotations

from typing import Final

TOKEN_MAX_BYTES: Final = 256
"""A queue, job id, worker or principal: one token of a subject."""

TASK_MAX_BYTES: Final = 256
SECONDS_MAX: Final = 10 * 365 * 86_400
"""Ten years: the longest wait or time limit that a message may ask for."""

INLINE_MAX_BYTES: Final = 256 * 1024
"""An input or output carried inside the record; above it, send a reference."""

NESTING_MAX: Final = 100
"""Depth of arrays and objects in inputs and outputs, so that every reader's parser can follow."""

ERROR_TEXT_MAX_CHARS: Final = 10_000
SUBMIT_ARRAY_MAX_JOBS: Final = 500
AFTER_MAX: Final = 100
ASKS_MAX_CHARS: Final = 200
"""Jobs that one may come after."""

LEASES_PER_REQUEST_MAX: Final = 500
"""Leases in one acquire and reports in one message: each is a record, and a batch holds 1,000."""

RELEASES_HELD_MAX: Final = 100
"""Releases that one worker holds."""

RENEWALS_PER_REQUEST_MAX: Final = 1_000
RECORD_MAX_BYTES: Final = 512 * 1024
"""Body, subject and headers of one record."""

BATCH_MAX_RECORDS: Final = 1_000
BATCH_MAX_BYTES: Final = 8 * 1024 * 1024
MESSAGE_MAX_BYTES: Final = 1024 * 1024
"""The broker's `max_payload`: a submit, request or answer."""

FILLED_MAX_BYTES: Final = 512 * 1024
"""An input and the outputs that `input_from` puts into it, together; a job with more is dead-lettered."""

SIGNALS_MAX_BYTES: Final = 384 * 1024
"""The signals that a job holds, names included. With a filled input they fit one answer."""

HISTORY_LONG_RECORDS: Final = 10_000
"""Records of one job, lease renewals not counted, from which on it is warned of, once in each round."""

HISTORY_MAX_RECORDS: Final = 50_000
"""Records of one job, lease renewals not counted; the next one dead-letters it."""

TAGS_MAX: Final = 20
"""Tags of one job."""

TAG_NAME_MAX_CHARS: Final = 64
TAG_VALUE_MAX_CHARS: Final = 256
ACQUIRE_WAIT_MAX_S: Final = 60.0
WORKER_SEEN_S: Final = 240.0
"""What a worker says of itself is recorded again after so long, as long as it asks for leases."""

WORKERS_KNOWN_MAX: Final = 10_000
LABELS_MAX: Final = 20
LABEL_MAX_CHARS: Final = 64
"""Of the name of a worker's label, and of its value."""

QUEUES_TOLD_MAX: Final = 100
"""Queues that a worker says it works on."""

DRAINED_MAX: Final = 500
"""Drained workers of a tenant: one message tells another partition of all."""

"""Workers of which a leader remembers what was recorded last."""

LIVE_MAX: Final = 2_000_000
"""Jobs of one partition that have not ended: its leader has them in memory. Beyond it submits are refused."""

SUBMITS_WAITING_MAX: Final = 5_000
"""Messages of one principal to one queue that wait to be decided on. Beyond it the broker stores no more of
them: it syncs its disk for each message, and whoever else submits would wait for that."""

KEPT_OUT_FROM: Final = 10_000
"""Jobs of one tenant that wait to be decided on, where several share a node: from so many on its submits are
not stored, in whatever queues and messages they come."""

TASKS_TOLD_MAX: Final = 200
TASKS_TOLD_MAX_BYTES: Final = 128 * 1024
"""Of the schemas of all tasks that a worker tells of; beyond that it tells of none."""

PACKAGES_MAX_BYTES: Final = 2 * 1024 * 1024 * 1024
"""All packages of a tenant, together. The broker sets so much aside for each tenant that publishes one."""

REASON_MAX_CHARS: Final = 1_000
SHARDS: Final = 256
SECOND_US: Final = 1_000_000
"""Log time is counted in microseconds."""

SLEW: Final = 20
"""Log time may run one part in this many faster or slower than a monotonic clock."""

REFUSALS_NAMED_MAX: Final = 100
"""Refused elements that one record names singly; it counts the rest."""

REFUSALS_BURST: Final = 50
REFUSALS_PER_S: Final = 10.0
"""Records of refusals that one principal may cause: a burst, and then so many per second."""

STEPS_MAX: Final = 1_000
"""Recorded steps of one job."""

STEPS_MAX_BYTES: Final = 1024 * 1024
"""Results of its recorded steps, together: when they have so much, no further step begins."""

NOTES_PER_REPORT_MAX: Final = 100
NOTES_MAX_BYTES: Final = 400 * 1024
"""What one report may note, as it becomes one record."""

NAME_MAX_CHARS: Final = 256
"""A step, tool or model."""

TOOL_RULES_MAX: Final = 100
"""Patterns in each list of a queue's tool policy."""

PRICES_MAX: Final = 2_000
"""Prices in the table of a tenant."""

TENANTS_MAX: Final = 256
"""Tenants of a node: each has a reader of its own at the intake."""
