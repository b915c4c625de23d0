"""The main job over REST, from nothing to a rollout under way."""

import hashlib

from deployments.models import Rollout
from tests.api.conftest import created, results
from tests.fixtures import CONFIG


def test_ci_gets_from_bytes_to_a_rollout(api, world, admin, owner, ci_token):
    boss, lead, ci = api(admin), api(owner), api(ci_token)
    created(boss.post("/environments", {"name": "stage", "tier": "stage", "regions": ["eu", "us"]}))
    service = created(
        lead.post("/services", {"team": "shop", "name": "orders", "strategy": {"batch": "50%"}})
    )
    for number in (1, 2):
        target = {
            "service": "orders",
            "environment": "stage",
            "region": "eu",
            "name": f"orders-{number}",
            "variables": {"port": 9000 + number},
        }
        created(lead.post("/targets", target))
    targets = [target["id"] for target in results(lead.get("/targets", service="orders"))]
    token = created(boss.post("/join-tokens", {"agent_name": "host-7", "targets": targets}))
    assert token["join_token"].startswith("slj_")

    content = b"the bytes of orders 1.0"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    artifact = created(
        ci.upload(content, {"X-Slipway-Digest": digest, "X-Slipway-Filename": "orders.tar.gz"})
    )
    assert artifact["digest"] == digest
    config = created(ci.post("/configs", {"service": "orders", "base": CONFIG}))
    release = created(
        ci.post(
            "/releases",
            {"service": "orders", "version": "1.0", "artifact": digest, "config": config["number"]},
        )
    )
    assert release["service"] == {"id": service["id"], "name": "orders"}

    import nacl.signing

    from deployments.services.agents import enrol_agent

    enrol_agent(
        join_token=token["join_token"], public_key=bytes(nacl.signing.SigningKey.generate().verify_key)
    )
    started = ci.post("/rollouts", {"service": "orders", "environment": "stage", "release": "1.0"})
    rollout = created(started)
    assert rollout["state"] in ("pending", "queued", "running")
    assert rollout["release"]["version"] == "1.0"
    assert len(rollout["batches"]) == 2
    assert rollout["targets"] == {"pending": 2}
    assert started.headers["ETag"] == f'"{rollout["event_count"]}"'
    assert Rollout.objects.get().id.hex == rollout["id"].replace("-", "")

    shown = ci.get(f"/rollouts/{rollout['id']}")
    assert shown.json() == rollout
    plan = ci.get(f"/rollouts/{rollout['id']}/plan").json()
    assert plan["digest"] == rollout["plan_digest"]
    planned = [target for wave in plan["waves"] for batch in wave["batches"] for target in batch["targets"]]
    assert len(planned) == len(set(planned)) == sum(rollout["targets"].values())
    events = results(ci.get(f"/rollouts/{rollout['id']}/events"))
    assert [event["number"] for event in events] == list(range(1, rollout["event_count"] + 1))
    assert [t["name"] for t in results(ci.get(f"/rollouts/{rollout['id']}/targets"))] == [
        "orders-1",
        "orders-2",
    ]
