"""Asks a pod on a virtual node for everything that the Python client can stream.

    stream_client.py NAMESPACE POD CONTAINER

Finds the API server by KUBECONFIG, prints a line for everything that held, and fails at the first that does not.
"""

import json
import sys
import time

from kubernetes import client, config
from kubernetes.stream import portforward, stream

PATIENCE = 120
namespace, pod, container = sys.argv[1:]
config.load_kube_config()
api = client.CoreV1Api()


def execute(command, **options):
    defaults = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    return stream(api.connect_get_namespaced_pod_exec, pod, namespace, container=container, command=command,
                  _preload_content=False, **(defaults | options))


def until(session, wanted, said=""):
    """Reads until the text is there."""
    deadline = time.monotonic() + PATIENCE
    while wanted not in said:
        assert time.monotonic() < deadline and session.is_open(), (wanted, said)
        session.update(timeout=1)
        said += session.read_stdout() if session.peek_stdout() else ""
    return said


def run_commands():
    for script, code, out, err in [
        ("true", 0, "", ""),
        ("echo out; echo err >&2; exit 7", 7, "out\n", "err\n"),
        ("nosuch", 127, "", "sh: nosuch: not found\n"),
    ]:
        session = execute(["sh", "-c", script])
        session.run_forever(timeout=PATIENCE)
        told = (session.returncode, session.read_stdout(timeout=1), session.read_stderr(timeout=1))
        assert told == (code, out, err), (script, told)
    # And in one piece, as most people write it.
    text = stream(api.connect_get_namespaced_pod_exec, pod, namespace, container=container,
                  command=["echo", "hello"], stdin=False, stdout=True, stderr=True, tty=False)
    assert text == "hello\n", text


def send_input():
    session = execute(["sh"], stdin=True)
    session.write_stdin("echo $HOSTNAME\n")
    until(session, pod + "\n")
    session.write_stdin("exit 3\n")
    session.run_forever(timeout=PATIENCE)
    assert session.returncode == 3, session.returncode

    # Far more than any buffer, in large messages, and all of it comes back.
    session = execute(["cat"], stdin=True)
    sent, received = "".join(f"{n:07}\n" for n in range(1 << 17)), 0
    step, begin = 1 << 16, 0
    deadline = time.monotonic() + PATIENCE
    while received < len(sent):
        assert time.monotonic() < deadline, received
        if begin < len(sent):
            session.write_stdin(sent[begin:begin + step])
            begin += step
        session.update(timeout=1)
        piece = session.read_stdout() if session.peek_stdout() else ""
        assert piece == sent[received:received + len(piece)], received
        received += len(piece)
    session.close()


def use_terminal():
    session = execute(["sh"], stdin=True, tty=True)
    for rows, columns in [(33, 101), (20, 90)]:
        session.write_channel(4, json.dumps({"Width": columns, "Height": rows}))
        deadline = time.monotonic() + PATIENCE
        said = ""
        # A size goes another way than what is typed.
        while f"\n{rows} {columns}\r\n" not in said:
            assert time.monotonic() < deadline, said
            session.write_stdin("stty size\r")
            said = until(session, "$ ", said)
            session.update(timeout=1)
            said += session.read_stdout() if session.peek_stdout() else ""
    session.write_stdin("exit 5\r")
    session.run_forever(timeout=PATIENCE)
    assert session.returncode == 5, session.returncode


def attach():
    session = stream(api.connect_get_namespaced_pod_attach, pod, namespace, container=container, stdin=True,
                     stdout=True, stderr=True, tty=False, _preload_content=False)
    session.write_stdin("hello?\n")
    until(session, "hello?\n")
    session.close()


def forward_ports():
    forward = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports="80,81")
    socket = forward.socket(80)
    socket.setblocking(True)
    socket.sendall(b"GET /python HTTP/1.1\r\nConnection: close\r\n\r\n")
    answer = b""
    while b"GET /python HTTP/1.1\nHello" not in answer:
        piece = socket.recv(1024)
        assert piece, answer
        answer += piece
    assert forward.error(80) is None, forward.error(80)
    deadline = time.monotonic() + PATIENCE
    while not forward.error(81):
        assert time.monotonic() < deadline, "the refusal is not told"
        time.sleep(0.1)
    assert "connection refused" in forward.error(81), forward.error(81)
    socket.close()


for name, check in [("exec", run_commands), ("input", send_input), ("terminal", use_terminal), ("attach", attach),
                    ("port-forward", forward_ports)]:
    check()
    print("holds:", name, flush=True)
