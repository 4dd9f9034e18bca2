"""`python -m autosong_jax.convert`: flags that do not go together, and places that nothing can be written to."""

import pytest
from absl import flags

from autosong_jax import convert
from autosong_jax.errors import UserError


@pytest.mark.parametrize(("arguments", "words"), [
    (["--source=model"], ["expected two of --source, --workdir and --export"]),
    (["--source=model", "--export=out"], ["--source=model is a directory", "--workdir"]),
    (["--source=enc.th", "--export=out", "--format=musicgen"], ["--format=musicgen is of --export"]),
    (["--workdir={workdir}", "--export=out", "--text_encoder=t5"], ["--text_encoder=t5", "--source"]),
    *[([mode, f"--export={name}"], [f"--export={name} {problem}"])
      for mode in ("--source=enc.th", "--workdir={workdir}")
      for name, problem in [("model", "is not empty"), ("enc.th", "is a file"), ("enc.th/x", "lies below")]],
])
def test_what_does_not_go_together_is_named(toy_workdir, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "enc.th"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    values = flags.FlagValues()
    monkeypatch.setattr(convert, "FLAGS", values)
    for name, default in {"source": None, "workdir": None, "export": None, "format": "auto",
                          "text_encoder": None}.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    values(["convert", *(argument.format(workdir=toy_workdir) for argument in arguments)])
    with pytest.raises(UserError) as error:
        convert.main()
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "out").exists()
