"""The experiment file: read, checked, complete.

    experiment = load_experiment("experiments/baseline.yaml", ["training.learning_rate=3e-4"])
    experiment.model_args.attention.type, experiment.identity

    document.py   a tree whose every value knows its place
    yaml.py       text -> document
    command_line.py  what follows the `=` of a flag -> text or YAML, by its field;  fields.py  which field that is
    sugar.py      short ways of writing -> the one long way
    merge.py      `extends` and --set on top of each other
    resolve.py    every choice complete
    schema.py     core's sections;  build_schema.py  + the registry = the schema
    validate.py   document -> Experiment;  layer_keys.py  the keys of `layers:`
    explain.py contradictions.py compatibility.py  what is wrong with it
    model_spec.py  what the model of one is made of
    experiment.py identity.py;  assemble.py  all of it: documents -> Experiment;  load.py  files -> Experiment
    mutate.py     Experiment -> Experiment;  write_yaml.py  -> YAML;  json_schema.py  for editors;
    difference.py  what differs between two;  remarks.py  what may not be meant

Nothing here imports torch or numpy.
"""

from foundry.core.config.experiment import Experiment
from foundry.core.config.json_schema import json_schema
from foundry.core.config.load import from_plain, load_experiment
from foundry.core.config.model_spec import LayerSpec, ModelSpec

__all__ = ["Experiment", "LayerSpec", "ModelSpec", "from_plain", "json_schema", "load_experiment"]
