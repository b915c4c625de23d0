"""ansible-core: one play, `serial` of a tenth, local connection, pipelining, 50 forks, no facts gathered."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.peers.layout import AFTER, Job, batch_script, config, health

PLAY = """
- hosts: all
  gather_facts: false
  serial: {serial}
  tasks:
    - name: a directory for the release
      ansible.builtin.file: {{path: "{{{{ home }}}}/releases/{version}/config", state: directory}}
    - name: the artifact
      ansible.builtin.unarchive:
        {{src: "{archive}", dest: "{{{{ home }}}}/releases/{version}", remote_src: true}}
    - name: the configuration
      ansible.builtin.copy:
        {{content: "{{{{ config }}}}", dest: "{{{{ home }}}}/releases/{version}/config/app.json"}}
    - name: the switch
      ansible.builtin.file: {{src: "releases/{version}", dest: "{{{{ home }}}}/current", state: link}}
    - name: the restart
      ansible.builtin.command: {{argv: "{{{{ restart }}}}"}}
    - name: health
      ansible.builtin.command: {{argv: "{{{{ health }}}}"}}
"""


def run(job: Job, tools: Path) -> float:
    """Seconds of `ansible-playbook` for the whole update. `tools`: the virtual environment it is in."""
    hosts = {
        home.name: {
            "home": str(home),
            "config": config(home),
            "restart": list(batch_script(home)),
            "health": list(health(home)),
        }
        for home in job.homes
    }
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    inventory = job.root / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    play = job.root / "play.yml"
    play.write_text(PLAY.format(version=AFTER, archive=job.archive, serial=job.size))
    environment = os.environ | {
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_FORKS": "50",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_LOCAL_TEMP": str(job.root / "ansible"),
        "ANSIBLE_REMOTE_TEMP": str(job.root / "ansible"),
        "ANSIBLE_NOCOLOR": "true",
    }
    command = [str(tools / "bin" / "ansible-playbook"), "-i", str(inventory), str(play)]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"ansible-playbook failed:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    return spent
