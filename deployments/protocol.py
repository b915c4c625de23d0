"""Messages between control plane and agent: plain, versioned, checked on both sides.

The agent dials out over one websocket. The control plane says `Challenge`, the agent answers
`Hello` with the nonce signed by its key, the control plane says `Welcome`; then instructions go
down as `Signed` envelopes, and heartbeats, reports and logs come up. One JSON message a frame.

A message that is unknown, malformed or too large is refused with `Refused` and counted; it does
not end the connection. Unknown fields are ignored, so that either side may be newer.
"""

import base64
from typing import Literal, TypeVar

import msgspec

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024
MAX_LOG_BYTES = 16 * 1024
MAX_MESSAGES_PER_SECOND = 200
"""What the control plane takes from one agent, on average over ten seconds; more is refused."""


class ProtocolError(ValueError):
    """The message does not follow the protocol."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    pass


# What runs, as the agent is told and as it reports.


class ArtifactRef(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    """`sha256:` and 64 hex digits."""
    size_bytes: int
    path: str
    """Path on the control plane, joined to the URL that the agent was enrolled at."""


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    command: tuple[str, ...]
    """Run without a shell, in the unpacked release directory."""
    working_dir: str = "."
    stop_seconds: int = 10
    """SIGTERM, then SIGKILL after so long."""


class HealthSpec(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["http", "tcp", "exec", "none"] = "none"
    host: str = "127.0.0.1"
    port: int = 0
    path: str = "/"
    command: tuple[str, ...] = ()
    timeout_ms: int = 2000
    """For one check."""
    interval_ms: int = 250
    healthy_after: int = 2
    """Consecutive passes that make a target healthy."""
    unhealthy_after: int = 3
    """Consecutive failures, after it was healthy, that make it unhealthy."""
    deadline_seconds: int = 30
    """From the start of the process to healthy; then the activation has failed."""


class ReleaseSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the agent needs to stage and run one release on one target."""

    release_id: str
    service: str
    version: str
    artifact: ArtifactRef
    config_digest: str
    env: dict[str, str] = {}
    """Values may hold `${secret:vault:PATH#KEY}`; the agent resolves those at start, in memory only."""
    files: dict[str, str] = {}
    """Relative path -> content, written beside the unpacked artifact in `config/`."""
    runtime: str = "process"
    process: ProcessSpec
    health: HealthSpec = HealthSpec()


# Instructions: the signed content of a `Signed` envelope.


class Instruction(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    agent_id: str
    task_id: str
    attempt: int
    fence: int
    """From one sequence for the whole control plane; lower than one seen for this target: stale, refused."""
    expires_at: float
    """Unix time in seconds after which the agent does not start it."""
    target_id: str
    target_name: str
    rollout_id: str = ""
    request_id: str = ""


class Stage(Instruction, frozen=True, kw_only=True, tag="stage"):
    """Fetch, verify, unpack and configure beside what runs; change nothing that serves."""

    release: ReleaseSpec


class Activate(Instruction, frozen=True, kw_only=True, tag="activate"):
    """Switch `current` to the release (staging it first where it is missing), restart, check health.

    On failure the agent leaves the release in place and reports; the control plane decides.
    """

    release: ReleaseSpec


class Deactivate(Instruction, frozen=True, kw_only=True, tag="deactivate"):
    """Stop what runs and clear `current`: the way back for a target that ran nothing before."""


class Cancel(Instruction, frozen=True, kw_only=True, tag="cancel"):
    """Give up the task `cancels`: its result is then `cancelled`, and this has none of its own.

    What has begun to switch or to restart a service runs to its end: no service is left stopped half-way.
    """

    cancels: str


AnyInstruction = Stage | Activate | Deactivate | Cancel


# Control plane -> agent.


class Challenge(Message, frozen=True, tag="challenge"):
    nonce: str
    protocol: int = VERSION


class Welcome(Message, frozen=True, tag="welcome"):
    heartbeat_seconds: float
    targets: dict[str, str] = {}
    """Target id -> name: what this agent serves."""


class Signed(Message, frozen=True, tag="signed"):
    body: str
    """The JSON of an instruction, as it was signed."""
    signature: str
    """Base64 of the control plane's Ed25519 signature over the body's UTF-8 bytes."""


class Ack(Message, frozen=True, tag="ack"):
    """The report is in the database; the agent need not send it again."""

    task_id: str
    attempt: int
    status: str


class Refused(Message, frozen=True, tag="refused"):
    reason: str
    code: str = "malformed"


Downward = Challenge | Welcome | Signed | Ack | Refused


# Agent -> control plane.


NO_LINK = "no link"
"""Where the link `current` leads when there is none."""


class TargetReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What runs on one target, as the agent sees it now."""

    target_id: str
    status: Literal["empty", "starting", "running", "stopped", "crashed"] = "empty"
    health: Literal["healthy", "unhealthy", "unknown"] = "unknown"
    release_id: str = ""
    artifact_digest: str = ""
    config_digest: str = ""
    pid: int = 0
    started_at: float = 0.0
    restarts: int = 0
    """How often the agent had to start it again since its activation."""
    ended: str = ""
    """How it ended before the last of them, for people: `was ended by SIGKILL`."""
    ended_at: float = 0.0
    modified: tuple[str, ...] = ()
    """Files of the active release that differ from what was unpacked and configured; the first ten."""
    current: str = ""
    """The release that the link `current` leads to, or where else; NO_LINK; empty before the first look."""
    tree_digest: str = ""
    """Over paths and contents of the active tree, as they were found on the disk."""
    files_digest: str = ""
    """The same over the configuration's files."""


class Hello(Message, frozen=True, tag="hello"):
    agent_id: str
    signature: str
    """Base64 of the agent's Ed25519 signature over `hello_bytes(nonce, agent_id)`."""
    version: str = ""
    hostname: str = ""
    protocol: int = VERSION
    open_tasks: tuple[str, ...] = ()
    """Tasks in the journal without an acknowledged result."""


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    number: int
    targets: tuple[TargetReport, ...] = ()
    """All that the agent serves, split over several heartbeats where they are many; between two rounds,
    those whose state has just changed."""
    refused: int = 0
    """Instructions that this process of the agent refused for a wrong signature, since its start."""


class TaskReport(Message, frozen=True, tag="report"):
    task_id: str
    attempt: int
    fence: int
    status: Literal["accepted", "succeeded", "failed", "cancelled", "refused"]
    code: str = ""
    """Stable name of a failure: `digest_mismatch`, `unsafe_archive`, `disk_full`, `unhealthy`, ..."""
    message: str = ""
    """One sentence for people: what went wrong and what to do."""
    log_tail: tuple[str, ...] = ()
    """The last lines of the service, on a failed activation."""
    duration_ms: int = 0
    target: TargetReport | None = None


class LogChunk(Message, frozen=True, tag="log"):
    target_id: str
    text: str
    """At most MAX_LOG_BYTES of UTF-8; `dropped` lines were left out before it."""
    dropped: int = 0


Upward = Hello | Heartbeat | TaskReport | LogChunk

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_upward = msgspec.json.Decoder(Upward)
_downward = msgspec.json.Decoder(Downward)
_instruction = msgspec.json.Decoder(AnyInstruction)


def encode(message: Message | Instruction) -> str:
    return _encoder.encode(message).decode()


def decode_upward(frame: str | bytes) -> Upward:
    """Read a message of an agent; raises ProtocolError."""
    return _decode(_upward, frame)


def decode_downward(frame: str | bytes) -> Downward:
    """Read a message of the control plane; raises ProtocolError."""
    return _decode(_downward, frame)


def decode_instruction(body: str | bytes) -> AnyInstruction:
    """Read the body of a `Signed` envelope whose signature was checked; raises ProtocolError."""
    return _decode(_instruction, body)


def _decode(decoder: msgspec.json.Decoder[T], frame: str | bytes) -> T:
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"The message has {len(frame)} bytes; the limit is {MAX_FRAME_BYTES}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ProtocolError(str(error)) from None


def hello_bytes(nonce: str, agent_id: str) -> bytes:
    return f"slipway-hello-v1\n{agent_id}\n{nonce}".encode()


def request_bytes(method: str, path: str, timestamp: str, agent_id: str) -> bytes:
    """What an agent signs for one HTTP request (`Authorization: Slipway-Agent`)."""
    return f"slipway-request-v1\n{agent_id}\n{method}\n{path}\n{timestamp}".encode()


def authorization_header(agent_id: str, timestamp: str, signature: bytes) -> str:
    """`Slipway-Agent id=ID,ts=UNIX_SECONDS,sig=BASE64`; accepted for 60 s around the server's clock."""
    return f"Slipway-Agent id={agent_id},ts={timestamp},sig={base64.b64encode(signature).decode()}"
