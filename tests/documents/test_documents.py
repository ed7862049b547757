"""What the documents say is so: code runs, commands exist, links resolve, translations keep step.

CONTRIBUTING.md says what is done with a code block of which language.
"""

import doctest
import functools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Sequence

import matplotlib
import pytest

from support import processes
from support.processes import ROOT

PATTERNS = ["*.md", "docs/*.md", "examples/*/*.md", "benchmarks/*.md", "prototxt/*.md"]
DOCUMENTS = sorted(str(p.relative_to(ROOT)) for pattern in PATTERNS for p in ROOT.glob(pattern))
TRANSLATION = "README.zh-CN.md"
LANGUAGES = {"python", "prototxt", "console", "sh", "text", "math"}
LARGEST_FIGURE = 300_000  # bytes

every_document = pytest.mark.parametrize("name", DOCUMENTS)

# What a block of a document takes for granted.
GIVEN = {"docs/data-parallel.md": "from document_samples import batches"}

Block = NamedTuple("Block", [("language", str), ("text", str), ("line", int)])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks_of(markdown: str) -> List[Block]:
    """The fenced code blocks, with the number of the line that each begins on."""
    blocks, opened = [], None  # type: ignore[var-annotated]
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = re.match(r"\s*(```+|~~~+)\s*(.*)", line)
        if opened is None and fence:
            opened = Block(fence.group(2).strip(), "", number + 1)
        elif opened is not None and fence:
            blocks.append(opened)
            opened = None
        elif opened is not None:
            opened = opened._replace(text=opened.text + line + "\n")
    assert opened is None, f"line {opened.line}: the code block does not end"  # type: ignore
    return blocks


def prose_of(markdown: str) -> str:
    """The document without its code blocks."""
    return re.sub(r"(?ms)^\s*(```+|~~~+).*?^\s*\1\s*$", "", markdown)


def code_spans(prose: str) -> List[str]:
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)


def without_code_spans(prose: str) -> str:
    return re.sub(r"`[^`]+`", "", prose)


def in_language(name: str, *languages: str) -> List[Block]:
    return [block for block in blocks_of(read(name)) if block.language in languages]


def documents_with(*languages: str) -> Any:
    """Without the translation, whose blocks are those of the README: a test below compares them."""
    names = [name for name in DOCUMENTS if in_language(name, *languages) and name != TRANSLATION]
    return pytest.mark.parametrize("name", names)


# Code blocks


@every_document
def test_every_code_block_says_what_it_is(name):
    for block in blocks_of(read(name)):
        assert block.language in LANGUAGES, f"line {block.line}: {block.language!r}"
    indented = re.search(r"\n\n((?: {4}|\t).*)", prose_of(read(name)))
    assert not indented, f"an indented code block says nothing of its language: {indented}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The checkout, by links to what it holds: what commands write stays out of it.

    The loops that it has compiled are not compiled again, as they are in a copy.
    """
    folder = tmp_path_factory.mktemp("links")
    for path in ROOT.iterdir():
        if path.name != "build" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def with_recipe(tmp_path_factory):
    """A copy of the checkout, with the files that blocks add to it."""
    copy = tmp_path_factory.mktemp("copy") / "caffe-losses"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(str(ROOT), str(copy), ignore=ignored)
    for name in DOCUMENTS:
        for block in in_language(name, "python", "prototxt"):
            if destination(block):
                add_to(copy, block)
    return copy


def destination(block: Block) -> Any:
    """The file that a block belongs to, and the list in it, if its first line names them."""
    return re.match(r"# ([\w/]+\.(?:py|prototxt))(?:, in (\w+))?\n", block.text)


def add_to(copy: Path, block: Block) -> None:
    found = destination(block)
    path, code = copy / found.group(1), block.text[found.end() :]
    path.parent.mkdir(exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if code in text:  # this checkout is one in which somebody has followed the recipe
        return
    if found.group(2):
        text, count = re.subn(rf"(?m)^ *{found.group(2)} ?= ?\[\n", rf"\g<0>{code}", text)
        assert count == 1
    else:
        text = f"{text}\n\n{code}" if text else code
    path.write_text(text, encoding="utf-8")


def run(command: Sequence[str], checkout: Path, folder: Path, **options: Any) -> Any:
    tests = checkout / "tests"
    python_path = [checkout, tests, tests / "documents", tests / "gradient_check"]
    return processes.run(
        command, folder, python_path, GLOG_minloglevel="2", MPLBACKEND="agg", **options
    )


def assert_shows(shown: str, printed: str, where: str) -> None:
    """What a document shows is what was printed, where `...` stands for any text."""
    same = doctest.OutputChecker().check_output(
        shown.strip() + "\n",
        printed.strip() + "\n",
        doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert same, f"{where}\n--- shown:\n{shown}\n--- printed:\n{printed}"


@documents_with("python")
def test_python_blocks_run_and_print_what_is_shown(name, checkout, tmp_path):
    all_blocks = blocks_of(read(name))
    blocks = [b for b in all_blocks if b.language == "python" and not destination(b)]
    # Each line of code keeps its number, so that a traceback points into the document.
    lines = [""] * len(read(name).splitlines())
    lines[0] = GIVEN.get(name, "")
    for block in blocks:
        code = block.text.splitlines()
        lines[block.line - 1 : block.line - 1 + len(code)] = code
        lines[block.line - 1 + len(code)] = f"print('end of block {block.line}', flush=True)"
    script = tmp_path / (Path(name).stem + ".py")
    script.write_text("\n".join(lines), encoding="utf-8")
    done = run([sys.executable, str(script)], checkout, tmp_path)
    assert done.returncode == 0, done.stderr
    rest = done.stdout
    for block in blocks:
        printed, rest = rest.split(f"end of block {block.line}\n", 1)
        following = all_blocks[all_blocks.index(block) + 1 :][:1]
        if following and following[0].language == "text":
            assert_shows(following[0].text, printed, f"line {following[0].line}")


@documents_with("prototxt")
def test_prototxt_blocks_load_and_run(name, with_recipe, tmp_path):
    for block in in_language(name, "prototxt"):
        checkout = with_recipe if destination(block) else ROOT
        path = tmp_path / "block.prototxt"
        path.write_text(block.text, encoding="utf-8")
        command = [
            sys.executable,
            str(checkout / "tests" / "documents" / "run_prototxt.py"),
            str(path),
        ]
        variables = {"CAFFE_LOSSES_ENGINE": "numpy"}  # nothing is to be compiled in the copy
        done = run(command, checkout, tmp_path, stderr=subprocess.STDOUT, **variables)
        assert done.returncode == 0, f"line {block.line}\n{done.stdout}"


@functools.lru_cache(maxsize=None)  # documents show the same commands
def output_of(script: str, checkout: Path) -> str:
    return run(["bash", "-c", script], checkout, checkout, stderr=subprocess.STDOUT).stdout


@documents_with("console")
def test_console_blocks_print_what_they_show(name, checkout):
    for block in in_language(name, "console"):
        commands, shown = zip(*sessions(block.text))
        script = "".join(
            f"{c}\nstatus=$?; echo 'ended with' $status; (exit $status)\n" for c in commands
        )
        output = output_of(script, checkout)
        printed, statuses = zip(*re.findall(r"(?s)(.*?)ended with (\d+)\n", output))
        for number, command in enumerate(commands):
            assert_numbers_agree(shown[number], printed[number], f"$ {command}")
            expected = commands[number + 1 : number + 2] == ("echo $?",)
            assert statuses[number] == "0" or expected, f"$ {command}\n{printed[number]}"


NUMBER = r"-?\d+\.\d+(?:e[+-]\d+)?|-?\d+e[+-]\d+"
PLACE = r"\d+(?:,\d+)+"
MEASURED = re.compile(f"{NUMBER}|{PLACE}")
ERROR = re.compile(r"\d\.\de[+-]\d+")


def assert_numbers_agree(shown: str, printed: str, where: str) -> None:
    """The numbers like 0.5 that stand in the same place are the same but for rounding.

    Errors and noise, written like 1.1e-04, are of the same size. Where in a blob the largest error
    is can be a matter of rounding: if that place is another one, so are the values there.
    """
    pattern = re.escape(MEASURED.sub("MEASURED", shown.strip())).replace(r"\.\.\.", "(?:.|\n)*?")
    pattern = re.sub(r"(?:\\?\s)+", r"\\s+", pattern)
    pattern = pattern.replace("MEASURED", f"({MEASURED.pattern})")
    found = re.fullmatch(pattern, printed.strip())
    assert found, f"{where}\n--- shown:\n{shown}\n--- printed:\n{printed}"
    same_place = True
    for old, new in zip(MEASURED.findall(shown), found.groups()):
        if "," in old:
            same_place = old == new
        elif ERROR.fullmatch(old):
            least, most = sorted([float(old), float(new)])
            assert most <= 10 * least, f"{where}: {old} for {new}"
        elif same_place:
            assert abs(float(old) - float(new)) <= 0.02 * abs(float(new)), f"{old} for {new}"


def sessions(text: str) -> Iterator[Sequence[str]]:
    """Each command of a console block, and what it prints."""
    assert text.startswith("$ "), "a console block begins with $ and a command"
    for session in re.split(r"(?m)^\$ ", text.replace("\\\n", ""))[1:]:
        command, _, shown = session.partition("\n")
        yield command, shown


# The recipe for a loss

# On both engines its own cases; once what the blocks say of samples and setup.py, and that the loss
# goes together with all others. The tests of the others run outside of the copy.
TESTS_OF_THE_LOSS = {
    "numba": (["tests/losses", "tests/layers"], "QuantileLossLayer"),
    "numpy": (
        ["tests/losses", "tests/layers", "tests/examples/test_prototxt.py", "tests/package"],
        "QuantileLossLayer or several_losses or quantile_loss or sample_for_every or "
        "public_modules or sdist",
    ),
}


@pytest.mark.parametrize("engine", TESTS_OF_THE_LOSS)
def test_with_the_loss_of_the_recipe_the_tests_of_losses_pass(engine, with_recipe):
    paths, chosen = TESTS_OF_THE_LOSS[engine]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *paths]
    done = run(
        [*command, "-k", chosen], with_recipe, with_recipe, timeout=900, CAFFE_LOSSES_ENGINE=engine
    )
    assert done.returncode == 0, done.stdout[-10000:]
    assert len(re.findall("QuantileLossLayer.* PASSED", done.stdout)) > 80


def test_the_loss_of_the_recipe_is_as_short_as_it_says_and_passes_the_linters(with_recipe):
    blocks = [b for b in in_language("CONTRIBUTING.md", "python") if destination(b)]
    lines = [line for block in blocks[:2] for line in block.text.splitlines()[1:]]
    code = [line for line in lines if line.strip() and '"""' not in line and "import" not in line]
    assert len(code) <= 25
    done = run(["tools/lint"], with_recipe, with_recipe, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


# Commands


def commands_in(script: str) -> Iterator[List[str]]:
    """The words of each command of a script."""
    for line in script.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|;|\|", line):
            words = shlex.split(command, comments=True)
            if words:
                yield words


def check_command(words: Sequence[str]) -> None:
    """Programs, make targets, files and options of a command exist."""
    assignments = [word for word in words if re.match(r"[A-Z_]+=", word)]
    for assignment in assignments:
        variable = assignment.split("=")[0]
        assert variable in all_code(), f"nothing reads {variable}"
    program, *arguments = words[len(assignments) :]
    assert program in CHECKS, f"no check of the command {program}: {' '.join(words)}"
    CHECKS[program](arguments)


def check_make(targets: Sequence[str]) -> None:
    for target in targets:
        assert re.search(rf"(?m)^{re.escape(target)}:", read("Makefile")), f"no target {target}"


def check_python(arguments: Sequence[str]) -> None:
    if arguments[:3] == ["-m", "pip", "install"]:
        # tests/package/test_drop_in.py runs it
        assert [*arguments[3:5], *arguments[6:]] == ["--no-deps", "--target", "."]
        return
    length = 2 if arguments[0] == "-m" else 1
    check_files(arguments)
    check_options(arguments[length:], help_of(sys.executable, *arguments[:length], "--help"))


def check_mpirun(arguments: Sequence[str]) -> None:
    assert arguments[0] == "-n"
    check_command(arguments[2:])


def check_caffe(arguments: Sequence[str]) -> None:
    command, *options = arguments
    assert command in ("train", "test", "time")
    check_options([o.replace("--", "-", 1) for o in options], help_of("caffe", "--helpon=caffe"))


def check_script(arguments: Sequence[str]) -> None:
    check_files(arguments)


def check_files(arguments: Sequence[str]) -> None:
    """Arguments that lie in a folder of the checkout exist."""
    for argument in arguments:
        folder, slash, _ = argument.partition("/")
        if slash and (ROOT / folder).is_dir() and folder != "build":
            assert (ROOT / argument.split("::")[0]).exists(), f"there is no {argument}"


def check_options(arguments: Sequence[str], help_text: str) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            option = re.escape(argument.split("=")[0])
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_text), f"no option {argument}"


@functools.lru_cache(maxsize=None)
def help_of(*command: str) -> str:
    done = run(command, ROOT, ROOT, stderr=subprocess.STDOUT)
    assert "usage" in done.stdout.lower(), done.stdout
    return done.stdout


@functools.lru_cache(maxsize=None)
def all_code() -> str:
    files = [p for p in ROOT.glob("*/*") if p.suffix in ("", ".py", ".sh") and p.is_file()]
    files = [p for p in files if not p.relative_to(ROOT).parts[0].startswith(".")]
    return "".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "Makefile"])


CHECKS = {
    "make": check_make,
    "python3": check_python,
    "mpirun": check_mpirun,
    "caffe": check_caffe,
    "tools/with-caffe": check_command,
    "tools/lint": check_script,
}


@documents_with("sh")
def test_commands_exist_with_their_options(name):
    for block in in_language(name, "sh"):
        for words in commands_in(block.text):
            check_command(words)


@every_document
def test_what_code_spans_name_exists(name):
    """Make targets, modules that run, files, and tests given as FILE::TEST."""
    for span in code_spans(prose_of(read(name))):
        words = span.split()
        if words[0] == "make":
            check_make(words[1:])
        if "python3 -m caffe_losses" in span:
            arguments = words[words.index("-m") :]
            check_python([word for word in arguments if not word.isupper()])
        check_files(words[:1])
        path, colons, test = span.partition("::")
        if colons:
            assert f"def {test}(" in read(path), span


def test_docs_reliability_names_all_tests_of_reliability():
    text = read("docs/reliability.md")
    of_layers = ["test_errors", "test_parameters", "test_reliability", "test_state", "test_top"]
    of_losses = ["test_extremes", "test_fuzz", "test_engines", "test_gradient_from_forward"]
    paths = [f"tests/layers/{name}.py" for name in of_layers]
    for path in [*paths, *(f"tests/losses/{name}.py" for name in of_losses)]:
        for test in re.findall(r"(?m)^def (test_\w+)", read(path)):
            assert f"`{path}::{test}`" in text


# Formulas, links and figures


@every_document
def test_formulas_parse_and_survive_markdown(name):
    matplotlib.use("agg")
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    inline = re.findall(r"\$([^$]+)\$", without_code_spans(prose_of(read(name))))
    displayed = [block.text for block in in_language(name, "math")]
    for formula in inline:
        # Markdown takes these for its own before the formula is looked at.
        assert not re.search(r"\\[^A-Za-z]|[}\])]_|\*|<\w", formula), formula
    for formula in [*inline, *displayed]:
        joined = re.sub(r"\\([lr])vert", "|", " ".join(formula.split()))
        parser.parse(f"${joined}$")


def links_of(markdown: str) -> List[str]:
    prose = without_code_spans(prose_of(markdown))
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)


def anchors_of(markdown: str) -> List[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose_of(markdown))
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_document
def test_links_and_figures_resolve(name):
    for link in links_of(read(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), link
        if target.suffix in (".png", ".svg", ".jpg"):
            assert target.stat().st_size <= LARGEST_FIGURE, link


# The README in Chinese


def tables_of(markdown: str) -> List[List[List[str]]]:
    """The cells of each table, by rows."""
    tables, previous = [], ""  # type: ignore[var-annotated]
    for line in prose_of(markdown).splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                tables.append([])
            tables[-1].append(re.split(r"(?<!\\)\|", line.strip().strip("|")))
        previous = line
    return tables


def without_comments(block: Block) -> str:
    return re.sub(r"(?m)\s*#.*$", "", block.text)


def test_the_chinese_readme_keeps_step():
    english, chinese = read("README.md"), read(TRANSLATION)
    of_english, of_chinese = blocks_of(english), blocks_of(chinese)
    assert [b.language for b in of_chinese] == [b.language for b in of_english]
    assert [*map(without_comments, of_chinese)] == [*map(without_comments, of_english)]

    def spans_by_cell(markdown):
        return [[[*map(code_spans, row)] for row in table] for table in tables_of(markdown)]

    def numbers_by_cell(markdown):
        return [
            [[re.findall(r"\d[\d.,]*", cell) for cell in row] for row in table]
            for table in tables_of(markdown)
        ]

    def headings(markdown):
        return re.findall(r"(?m)^#+(?= )", prose_of(markdown))

    def local_links(markdown):
        return sorted(link for link in links_of(markdown) if not link.startswith("README"))

    for aspect in (spans_by_cell, numbers_by_cell, headings, local_links):
        assert aspect(chinese) == aspect(english)
    assert sorted(set(code_spans(prose_of(chinese)))) == sorted(set(code_spans(prose_of(english))))
