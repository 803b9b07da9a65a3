import subprocess
import sys

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tvm", "tvm_ffi", "torch"}:
            raise ImportError(f"{name} is not for this part")

sys.meta_path.insert(0, Blocked())
import codesign.candidate, codesign.conditions, codesign.config, codesign.frontier, codesign.latency
import codesign.history, codesign.pareto, codesign.records, codesign.records.importing
import codesign.report, codesign.search
from codesign.frontier import Frontier
from codesign.report import ReportData, write
write(ReportData(Frontier("m", "t", 1, {}, (), ()), "mrr"), sys.argv[1])
"""


def test_a_report_is_drawn_where_neither_tvm_nor_torch_is_installed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 5000
