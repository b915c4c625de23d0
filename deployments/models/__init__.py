from deployments.models.agents import Agent, JoinToken
from deployments.models.catalog import Environment, Region, Service, Target
from deployments.models.jobs import JobFault, QueuedJob
from deployments.models.logs import LogChunk
from deployments.models.permissions import TeamGroupObjectPermission, TeamUserObjectPermission
from deployments.models.releases import Artifact, ArtifactUpload, ConfigSnapshot, Hold, Release
from deployments.models.requests import IdempotencyKey
from deployments.models.rollouts import (
    Batch,
    Event,
    Plan,
    Rollout,
    RolloutTarget,
    Task,
    TaskReport,
    Wave,
)
from deployments.models.teams import Membership, Team

__all__ = [
    "Agent",
    "Artifact",
    "ArtifactUpload",
    "Batch",
    "ConfigSnapshot",
    "Environment",
    "Event",
    "Hold",
    "IdempotencyKey",
    "JobFault",
    "JoinToken",
    "LogChunk",
    "Membership",
    "Plan",
    "QueuedJob",
    "Region",
    "Release",
    "Rollout",
    "RolloutTarget",
    "Service",
    "Target",
    "Task",
    "TaskReport",
    "Team",
    "TeamGroupObjectPermission",
    "TeamUserObjectPermission",
    "Wave",
]
