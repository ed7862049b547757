"""tools/with-caffe on machines of which the parts that matter are made here.

The real mmdebstrap and bubblewrap need a network and rights that a test has no business to need, so
small scripts take their place on a PATH that holds nothing else but the ordinary tools. Everything
that with-caffe itself decides is real: what it looks for, builds, keeps, reports and returns.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
ORDINARY = (
    "bash cat cut dirname echo env flock grep id mkdir mv rm sed sha256sum sleep tar touch tr "
    "true uname xargs"
).split()
NO_CAFFE = "exit 1"
# Runs what follows the options and waits for it; a signal that is not ignored ends the waiting.
BWRAP = """
printf '%s\\n' "$@" > "$RECORDS/bwrap"
while [ "$1" != env ] && [ "$1" != true ]; do shift; done
"$@" <&0 &
wait $!
"""
# Writes a system of two directories as a tar stream. What it finds to read, it reads.
MMDEBSTRAP = """
echo "$*" >> "$RECORDS/mmdebstrap"
cat > /dev/null
mkdir -p "$RECORDS/system/etc" "$RECORDS/system/usr"
tar -c -C "$RECORDS/system" .
"""


class Machine:
    """A PATH, a home directory and a checkout of their own, and the records of the made tools."""

    def __init__(self, folder):
        self.bin, self.records = folder / "bin", folder / "records"
        self.cache, self.tools = folder / "home/.cache/caffe-losses", folder / "checkout/tools"
        self.bin.mkdir()
        self.records.mkdir()
        (folder / "home").mkdir()
        shutil.copytree(str(TOOLS), str(self.tools))
        for name in ORDINARY:
            (self.bin / name).symlink_to(shutil.which(name))
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder / "home"),
            "RECORDS": str(self.records),
        }
        self.make("apt-get", 'echo "$*" >> "$RECORDS/apt-get"')
        self.make("python3", NO_CAFFE)
        self.make("bwrap", BWRAP)
        self.make("mmdebstrap", MMDEBSTRAP)
        self.make("unshare", 'shift; exec "$@"')

    def make(self, name, script):
        path = self.bin / name
        if path.exists():
            path.unlink()
        path.write_text(f"#!{self.bin}/bash\n{script}\n")
        path.chmod(0o755)

    def remove(self, *names):
        for name in names:
            (self.bin / name).unlink()

    def be_user(self, number, name="somebody"):
        self.make("id", f'case $1 in -u) echo {number} ;; -un) echo "{name}" ;; esac')

    def start(self, *command, **options):
        return subprocess.Popen(
            [str(self.tools / "with-caffe"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            **{"env": self.environment, **options},
        )

    def run(self, *command, **options):
        process = self.start(*command, **options)
        process.out, process.err = process.communicate(timeout=60)
        return process

    def recorded(self, name):
        path = self.records / name
        return path.read_text().splitlines() if path.exists() else []

    def roots(self):
        return sorted(path.name for path in self.cache.glob("root-*"))


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.be_user(0, "root")
    return machine


@pytest.mark.parametrize("caffe", ["of the machine", "in a root"])
def test_the_command_gets_its_arguments_directory_and_input_and_keeps_its_status(
    machine, tmp_path, caffe
):
    if caffe == "of the machine":
        machine.make("python3", f'exec {sys.executable} "$@"')
    (tmp_path / "input").write_text("read\n")
    with (tmp_path / "input").open() as file:
        script = 'cat; printf "<%s>" "$PWD" "$@"; exit 37'
        ran = machine.run("bash", "-c", script, "_", "a  b", "", "*", cwd=str(tmp_path), stdin=file)
    assert (ran.out, ran.returncode) == (f"read\n<{tmp_path}><a  b><><*>", 37)
    assert len(machine.roots()) == (0 if caffe == "of the machine" else 1)


def test_an_empty_module_named_caffe_is_not_taken_for_caffe(machine, tmp_path):
    (tmp_path / "caffe.py").write_text("")
    machine.make("python3", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    assert machine.run("true").returncode == 0
    assert len(machine.roots()) == 1


def test_without_a_command_the_usage_is_an_error(machine):
    ran = machine.run()
    assert ran.returncode == 125
    assert "usage: tools/with-caffe COMMAND" in ran.err


def test_the_root_is_built_once_for_all_checkouts(machine, tmp_path):
    machine.run("true")
    shutil.copytree(str(machine.tools), str(tmp_path / "another"))
    machine.tools = tmp_path / "another"
    assert machine.run("true").returncode == 0
    assert len(machine.recorded("mmdebstrap")) == 1


def test_another_package_list_gets_another_root(machine):
    machine.run("true")
    machine.run("true", env={**machine.environment, "CAFFE_EXTRA_PACKAGES": "python3-torch less"})
    assert "openmpi-bin,python3-setuptools" in machine.recorded("mmdebstrap")[0]
    assert ",python3-torch,less " in machine.recorded("mmdebstrap")[1]
    with (machine.tools / "caffe-packages.txt").open("a") as file:
        file.write("less # to read with\n")
    machine.run("true")
    assert ",less " in machine.recorded("mmdebstrap")[2]
    assert len(machine.roots()) == 3


def test_a_comment_in_the_package_list_builds_nothing(machine):
    machine.run("true")
    with (machine.tools / "caffe-packages.txt").open("a") as file:
        file.write("# another comment\n")
    machine.run("true")
    assert len(machine.recorded("mmdebstrap")) == 1


def test_a_mirror_may_have_signatures_that_expired(machine):
    machine.run("true", env={**machine.environment, "CAFFE_DEBIAN_MIRROR": "http://old.example/"})
    (arguments,) = machine.recorded("mmdebstrap")
    assert 'bullseye - http://old.example/ --aptopt=Acquire::Check-Valid-Until "false"' in arguments
    machine.run("true")
    assert len(machine.recorded("mmdebstrap")) == 1


def test_a_build_says_so_and_leaves_the_output_to_the_command(machine):
    ran = machine.run("bash", "-c", "echo printed")
    assert ran.out == "printed\n"
    assert "building a Debian 11 root" in ran.err
    assert machine.run("true").err == ""


def test_a_build_that_fails_is_not_taken_for_a_finished_one(machine):
    machine.make("mmdebstrap", f"{MMDEBSTRAP}\nexit 1")
    for attempt in range(2):
        ran = machine.run("true")
        assert ran.returncode == 125
        assert "could not build the root" in ran.err
        assert len(machine.recorded("mmdebstrap")) == attempt + 1
    machine.make("mmdebstrap", MMDEBSTRAP)
    assert machine.run("true").returncode == 0
    assert [name for name in machine.roots() if name.endswith(".partial")] == []


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["alone", "with all it started"])
def test_a_build_that_is_killed_is_not_taken_for_a_finished_one(machine, kill):
    machine.make("mmdebstrap", f'{MMDEBSTRAP}\ntouch "$RECORDS/written"\nsleep 1')
    process = machine.start("true", start_new_session=True)
    wait_for(machine.records / "written")
    (left,) = machine.roots()
    assert left.endswith(".partial")
    kill(process.pid, signal.SIGKILL)
    process.wait()

    machine.make("mmdebstrap", MMDEBSTRAP)
    assert machine.run("true").returncode == 0
    assert machine.roots() == [left[: -len(".partial")]]
    assert len(machine.recorded("mmdebstrap")) == 2


def test_two_runs_at_once_build_one_root(machine):
    machine.make("mmdebstrap", f"{MMDEBSTRAP}\nsleep 0.5")
    first, second = machine.start("true"), machine.start("true")
    errors = first.communicate()[1] + second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "waiting for another build" in errors
    assert len(machine.recorded("mmdebstrap")) == 1


def test_missing_tools_are_named_with_the_command_that_installs_them(machine):
    machine.be_user(1000)
    machine.remove("bwrap", "mmdebstrap")
    ran = machine.run("true")
    assert ran.returncode == 125
    assert "sudo apt-get install bubblewrap mmdebstrap" in ran.err
    assert "uidmap" in ran.err
    assert machine.recorded("apt-get") == []


@pytest.mark.parametrize("rights", ["root", "sudo without a password"])
def test_missing_tools_are_installed_by_who_may(machine, rights):
    if rights != "root":
        machine.be_user(1000, "root")
        machine.make("newuidmap", "exit 0")
        machine.make("grep", "exit 0")
        machine.make("sudo", '[ "$1" = -n ] && shift && "$@"')
    (machine.bin / "mmdebstrap").rename(machine.records / "package")
    install = 'case " $* " in *" mmdebstrap "*) mv "$RECORDS/package" "${0%/*}/mmdebstrap" ;; esac'
    machine.make("apt-get", f'echo "$*" >> "$RECORDS/apt-get"\n{install}')
    ran = machine.run("bash", "-c", "echo printed")
    assert (ran.out, ran.returncode) == ("printed\n", 0)
    assert "installing mmdebstrap" in ran.err
    update, installed = machine.recorded("apt-get")
    assert update.startswith("update")
    assert installed.startswith("install") and installed.endswith("mmdebstrap")


def test_tools_that_cannot_be_installed_are_an_error(machine):
    machine.remove("bwrap")
    machine.make("apt-get", "exit 100")
    ran = machine.run("true")
    assert ran.returncode == 125
    assert "could not install bubblewrap" in ran.err


@pytest.mark.parametrize(
    "user, setting, value, advice",
    [
        (0, None, None, "in a container, start it with --privileged"),
        (1000, None, None, "run this command as root"),
        (1000, "kernel/apparmor_restrict_unprivileged_userns", 1, "userns=0"),
        (1000, "kernel/unprivileged_userns_clone", 0, "userns_clone=1"),
        (1000, "user/max_user_namespaces", 0, "max_user_namespaces=10000"),
    ],
)
def test_a_kernel_that_refuses_namespaces_is_explained_before_anything_is_built(
    machine, user, setting, value, advice
):
    machine.be_user(user)
    machine.make("newuidmap", "exit 0")
    machine.make("bwrap", "echo No permissions >&2; exit 1")
    machine.make("cat", f'[ "$1" = /proc/sys/{setting} ] && echo {value}')
    ran = machine.run("true")
    assert ran.returncode == 125
    assert "No permissions" in ran.err
    assert ran.err.rstrip().endswith(advice)
    assert machine.roots() == []


def test_a_user_without_a_range_of_user_ids_is_told_how_to_get_one(machine):
    machine.be_user(1000, "nobody-has-this-name")
    machine.make("newuidmap", "exit 0")
    ran = machine.run("true")
    assert ran.returncode == 125
    assert "sudo usermod --add-subuids" in ran.err
    assert ran.err.rstrip().endswith(" nobody-has-this-name")


def test_the_system_is_the_root_and_everything_else_is_the_machine(machine):
    machine.run("true")
    (name,) = machine.roots()
    options = "\n".join(machine.recorded("bwrap"))
    assert f"--ro-bind\n{machine.cache}/{name}/usr\n/usr\n" in options
    assert f"--ro-bind\n{machine.cache}/{name}/etc\n/etc\n" in options
    assert "--bind\n/tmp\n/tmp\n" in options
    assert "--bind\n/home\n/home\n" in options
    assert "--bind\n/usr\n" not in options


def test_ctrl_c_reaches_the_command_and_its_status_comes_back(machine):
    script = """
import signal, sys, time
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(0.2)
    sys.exit(5)
"""
    process = machine.start(sys.executable, "-c", script, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 5


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
