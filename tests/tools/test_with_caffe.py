"""tools/with-caffe on machines of which the parts that matter are made here.

The real mmdebstrap and bubblewrap need a network and rights that a test has no business to need, so
small scripts take their place on a PATH that holds nothing else but the ordinary tools. Everything
that with-caffe itself decides is real: what it looks for, builds, keeps, reports and returns. How
processes end is tested in real mount namespaces.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
ORDINARY = (
    "bash cat cut dirname echo env find flock grep id mkdir mv rm sed setsid sha256sum sleep stat "
    "tail tar tee touch tr true uname xargs"
).split()
NO_CAFFE = "exit 1"
# Enters nothing: says what holds the root, and runs the command.
BWRAP = """
printf '%s\\n' "$@" > "$RECORDS/bwrap"
case " $* " in *" hold_root "*) echo 4711 >&3 ;; esac
"""
NSENTER = """
printf '%s\\n' "$@" > "$RECORDS/nsenter"
while [ "$1" != /usr/bin/env ]; do shift; done
exec "$@"
"""
# Bubblewrap without its mounts: a mount namespace in which everything is the machine's.
BWRAP_WITHOUT_MOUNTS = f"""
while [ "$1" != /bin/bash ] && [ "$1" != true ]; do shift; done
exec {shutil.which("unshare")} {"" if os.getuid() == 0 else "--user --map-root-user"} --mount "$@"
"""
# Writes a system of two directories as a tar stream. What it finds to read, it reads.
MMDEBSTRAP = """
echo "$*" >> "$RECORDS/mmdebstrap"
cat > /dev/null
mkdir -p "$RECORDS/system/etc" "$RECORDS/system/usr"
tar -c -C "$RECORDS/system" .
"""
UNTIL_TOLD = 'until [ -e "$RECORDS/told" ]; do sleep 0.01; done'


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
        self.make("df", "echo Avail; echo 5000")
        self.make("bwrap", BWRAP)
        self.make("nsenter", NSENTER)
        self.make("mmdebstrap", MMDEBSTRAP)
        self.make("unshare", 'shift; exec "$@"')

    def make(self, name, script):
        path = self.bin / name
        if path.exists():
            path.unlink()
        path.write_text(f"#!{self.bin}/bash\n{script}\n")
        path.chmod(0o755)

    def make_real_namespaces(self):
        """Lets commands run in a mount namespace of their own, as this user."""
        self.make("bwrap", BWRAP_WITHOUT_MOUNTS)
        self.remove("nsenter", "id")
        for name in "nsenter", "id":
            (self.bin / name).symlink_to(shutil.which(name))

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
            **{"env": self.environment, "stdin": subprocess.PIPE, **options},
        )

    def run(self, *command, **options):
        process = self.start(*command, **options)
        process.out, process.err = process.communicate(timeout=600)
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
    machine.make("mmdebstrap", f'{MMDEBSTRAP}\ntouch "$RECORDS/written"\n{UNTIL_TOLD}')
    process = machine.start("true", start_new_session=True)
    wait_for(machine.records / "written")
    (left,) = machine.roots()
    assert left.endswith(".partial")
    kill(process.pid, signal.SIGKILL)
    process.wait()
    (machine.records / "told").touch()

    machine.make("mmdebstrap", MMDEBSTRAP)
    assert machine.run("true").returncode == 0
    assert machine.roots() == [left[: -len(".partial")]]
    assert len(machine.recorded("mmdebstrap")) == 2


def test_a_root_of_which_a_part_was_deleted_is_built_anew(machine):
    machine.run("true")
    (name,) = machine.roots()
    for part in "etc/hosts", ".complete":
        built = len(machine.recorded("mmdebstrap"))
        (machine.cache / name / part).unlink()
        ran = machine.run("bash", "-c", "echo printed")
        assert (ran.out, ran.returncode) == ("printed\n", 0)
        assert f"parts of {machine.cache / name} were deleted" in ran.err
        assert (machine.cache / name / part).exists()
        assert len(machine.recorded("mmdebstrap")) == built + 1
    assert machine.run("true").err == ""


def test_a_disk_with_too_little_room_is_named_before_the_build(machine):
    machine.make("df", "echo Avail; echo '  700'")
    ran = machine.run("true", env={**machine.environment, "TMPDIR": str(machine.records)})
    assert ran.returncode == 125
    assert f"the disk of {machine.cache} has 700 MB free" in ran.err
    assert "takes 2300 MB there" in ran.err and "XDG_CACHE_HOME" in ran.err
    assert machine.recorded("mmdebstrap") == []
    assert machine.roots() == []


@pytest.mark.parametrize("tool", ["mmdebstrap", "tar"])
def test_a_disk_that_gets_full_in_the_build_is_named_and_cleared(machine, tool):
    machine.make(tool, "cat > /dev/null; echo '/a/file: No space left on device' >&2; exit 2")
    ran = machine.run("true")
    assert ran.returncode == 125
    assert "/a/file: No space" in ran.err
    assert f"could not build the root: the disk of {machine.cache} or of /var/tmp is" in ran.err
    assert machine.roots() == []


@pytest.mark.parametrize(
    "mirror, advice",
    [
        ("http://wrong.example/", "from CAFFE_DEBIAN_MIRROR=http://wrong.example/, see above"),
        ("", 'no longer has Debian 11. Old releases stay in archives, .* "Distribution archives"'),
    ],
    ids=["wrong", "default"],
)
def test_a_mirror_without_the_release_is_explained(machine, mirror, advice):
    machine.make("mmdebstrap", "echo 'E: no Release file' >&2; exit 25")
    ran = machine.run("true", env={**machine.environment, "CAFFE_DEBIAN_MIRROR": mirror})
    assert ran.returncode == 125
    assert "no Release file" in ran.err
    assert re.search(advice, ran.err)
    assert machine.roots() == []


def test_two_runs_at_once_build_one_root(machine):
    machine.make("mmdebstrap", f"{MMDEBSTRAP}\n{UNTIL_TOLD}")
    first = machine.start("true")
    wait_until(lambda: machine.recorded("mmdebstrap"))
    second = machine.start("true")
    assert "waiting for another build" in second.stderr.readline()
    (machine.records / "told").touch()
    first.communicate()
    second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
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
    for directory in "/tmp", "/home", "/dev", "/proc":
        assert f"--dev-bind\n{directory}\n{directory}\n" in options
    assert "--dev-bind\n/usr\n" not in options
    assert "--unshare" not in options  # processes are the machine's


@pytest.mark.parametrize("hidden", ["checkout", "working directory"])
def test_a_directory_that_the_root_hides_is_an_error(machine, tmp_path, hidden):
    directories = {"cwd": "/usr/share" if hidden == "working directory" else str(tmp_path)}
    if hidden == "checkout":  # a test has nothing to write in /usr
        machine.make("dirname", "echo /usr/share/doc")
    ran = machine.run("true", **directories)
    assert ran.returncode == 125
    assert "with-caffe: /usr/share cannot be seen in the root" in ran.err
    assert machine.roots() == []


def test_ctrl_c_reaches_the_command_and_its_status_comes_back(machine):
    script = """
import signal, sys, time
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.2)
    sys.exit(5)
"""
    process = machine.start(
        sys.executable, "-c", script, start_new_session=True, preexec_fn=heed_signals
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 5


# ---- processes


@pytest.fixture
def real_namespaces(machine):
    machine.run("true")  # builds the root
    machine.make_real_namespaces()
    if machine.run("true").returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    return machine


# Children that a signal to their parent, its group or its session does not reach.
LEAVE_CHILDREN = """
setsid sleep 600 & echo $! >> "$RECORDS/children"
nohup sleep 600 > /dev/null & echo $! >> "$RECORDS/children"
(bash -c 'echo $$ >> "$RECORDS/children"; exec setsid sleep 600' &)
echo started
"""


def test_the_command_has_the_process_id_of_with_caffe(real_namespaces):
    process = real_namespaces.start("bash", "-c", "echo $$; sleep 0.1")
    assert int(process.communicate(timeout=600)[0]) == process.pid


@pytest.mark.parametrize("end", ["ended", "killed", "killed and never waited for"])
def test_nothing_outlives_the_command(real_namespaces, end):
    ends = "exit 37" if end == "ended" else "sleep 600"
    process = real_namespaces.start("bash", "-c", LEAVE_CHILDREN + ends)
    assert process.stdout.readline() == "started\n"
    wait_until(lambda: len(real_namespaces.recorded("children")) == 3)
    if end != "ended":
        process.kill()
    if end != "killed and never waited for":
        assert process.wait() == (37 if end == "ended" else -signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, real_namespaces.recorded("children"))))
    process.communicate()


def is_running(process_id):
    """Whether there is such a process that is no zombie."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")")[-1].split()[0] != "Z"


def test_two_commands_at_once_end_each_other_not(real_namespaces):
    other = real_namespaces.start("bash", "-c", "read -r line; echo $line")
    assert real_namespaces.run("bash", "-c", "sleep 600 & exit 0").returncode == 0
    time.sleep(0.5)  # what ends the first command's child has had its turn
    assert other.communicate("alive\n", timeout=600)[0] == "alive\n"


def test_signals_are_for_the_command(real_namespaces):
    script = "trap 'echo snapshot' HUP; echo ready; while true; do sleep 0.01; done"
    process = real_namespaces.start("bash", "-c", script, preexec_fn=heed_signals)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "snapshot\n"
    process.terminate()
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGTERM


def heed_signals():
    """Under nohup or in the background they are ignored, and what bash starts keeps it so."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path):
    wait_until(path.exists)


def wait_until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- tools/lint


def test_two_first_runs_of_lint_at_once_install_once_and_leave_nothing_behind(machine):
    machine.make(
        "python3",
        'case "$*" in\n'
        "    --version) echo Python 3.9.2 ;;\n"
        '    *" pip install "*) echo "$*" >> "$RECORDS/pip"; sleep 0.5; mkdir "$6" ;;\n'
        '    *) echo "$2" >> "$RECORDS/checks" ;;\n'
        "esac",
    )
    lint = [str(machine.tools / "lint")]
    runs = [subprocess.Popen(lint, env=machine.environment) for _ in range(2)]
    assert [run.wait(timeout=600) for run in runs] == [0, 0]
    assert len(machine.recorded("pip")) == 1
    assert sorted(machine.recorded("checks")) == ["mypy"] * 2 + ["ruff"] * 4
    names = {path.name.split("-")[0] + path.suffix for path in machine.cache.iterdir()}
    assert names == {"lint"} and len(list(machine.cache.iterdir())) == 2  # the linters, the lock
