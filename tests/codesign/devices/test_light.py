"""What a board's server imports."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch typer rich click onnx onnxruntime tvm tvm_ffi numpy scipy psutil xgboost tornado matplotlib"
    " networkx safetensors cloudpickle"
).split()


def test_the_servers_modules_import_only_the_standard_library() -> None:
    code = (
        "import sys, codesign.devices.server, codesign.devices.serving, codesign.devices.session;"
        "import codesign.devices.inprocess, codesign.devices.zygote, codesign.devices.client;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_session_works_without_torch_and_the_command_line() -> None:
    code = (
        "import sys\n"
        "for name in 'torch typer rich click onnx onnxruntime scipy xgboost tornado psutil'.split():\n"
        "    sys.modules[name] = None\n"
        "from codesign.lean import import_tvm\n"
        "import_tvm()\n"
        "from pathlib import Path\n"
        "from codesign.devices import session\n"
        "from codesign.devices.options import ServerOptions\n"
        "session.register(Path('.'), ServerOptions('k', None))\n"
        "import tvm_ffi\n"
        "print(tvm_ffi.get_global_func('codesign.device.info')()[:9])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"serial"'
