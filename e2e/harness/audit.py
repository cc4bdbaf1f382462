"""What the API server of a kind cluster says of the operator's requests: its audit log.

Auditing is switched on in the node's manifest of the API server: kind's own way, patches for
kubeadm, has another form from one version to the next. The log goes to the container's output, for
which no volume is needed.
"""

import json
from collections.abc import Callable

from harness.kubectl import wait_for

# Runs a shell script in the node of the control plane and returns what it prints.
InNode = Callable[[str], str]

ACCOUNT = "system:serviceaccount:{namespace}:steelyard-operator"
# The folder is mounted in the API server's container anyway.
POLICY_FILE = "/etc/kubernetes/pki/steelyard-audit.yaml"
POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: ["{user}"]
  - level: None
"""
SWITCH_ON = """
set -eu
cat > {file} <<'END'
{policy}END
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
cp $manifest /tmp/kube-apiserver.yaml
flags='    - --audit-log-path=-\\n    - --audit-policy-file={file}'
sed -i "s#^    - --advertise-address=.*#&\\n$flags#" /tmp/kube-apiserver.yaml
mv /tmp/kube-apiserver.yaml $manifest
"""
IS_ON = """
for process in /proc/[0-9]*; do
  if [ "$(cat "$process/comm" 2>/dev/null)" = kube-apiserver ]; then
    tr '\\0' '\\n' < "$process/cmdline"
  fi
done
"""
# Of the container that runs and of the ones that scenarios have killed, also what was rotated.
LOGS = "/var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log*"
READ = f"zcat --force {LOGS} | grep audit.k8s.io || true"


def begin(in_node: InNode, namespace: str, answers: Callable[[], bool]) -> None:
    """Switch auditing of the operator's requests on; the API server is started anew.

    Raises:
        NotYetError: it does not run with auditing.
    """
    policy = POLICY.format(user=ACCOUNT.format(namespace=namespace))
    in_node(SWITCH_ON.format(file=POLICY_FILE, policy=policy))

    def audits() -> bool:
        return POLICY_FILE in in_node(IS_ON) and answers()

    wait_for("an API server with an audit log", audits, seconds=180)


def requests(in_node: InNode) -> list[tuple[str, int]]:
    """Return the operator's requests: verb and resource, and the status code of the answer."""
    found = []
    for line in in_node(READ).splitlines():
        # Before it are the time, the stream and whether the line is whole.
        event = json.loads(line[line.index("{") :])
        target = event.get("objectRef") or {}
        parts = (target.get("resource"), target.get("subresource"))
        what = f"{event['verb']} {'/'.join(part for part in parts if part)}"
        found.append((what, int((event.get("responseStatus") or {}).get("code", 0))))
    return found
