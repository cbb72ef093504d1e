"""Prints TensorBoard's view of a folder of event files as JSON: scalars that a restart superseded are left out."""

import base64
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "histograms": 0, "images": 0}).Reload()
tags = found.Tags()


def hparams(content):
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    kind = data.WhichOneof("data")
    if kind == "session_start_info":
        values = data.session_start_info.hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
    if kind == "experiment":
        experiment = data.experiment
        infos = {info.name: info.type for info in experiment.hparam_infos}
        return {"infos": infos, "metrics": [info.name.tag for info in experiment.metric_infos]}
    return {"status": data.session_end_info.status}


def histogram(event):
    value = event.histogram_value
    lists = {"bucket_limit": list(value.bucket_limit), "bucket": list(value.bucket)}
    names = ["min", "max", "num", "sum", "sum_squares"]
    return {"step": event.step, **{name: getattr(value, name) for name in names}, **lists}


def image(event):
    png = base64.b64encode(event.encoded_image_string).decode()
    return {"step": event.step, "width": event.width, "height": event.height, "png": png}


def pixels(event):
    import io

    import PIL.Image

    return list(PIL.Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB").tobytes())


plugin = found.PluginTagToContent("hparams") if "_hparams_/experiment" in found.summary_metadata else {}
json.dump(
    {
        # As text, because JSON has no NaN.
        "scalars": {tag: [[e.step, repr(e.value)] for e in found.Scalars(tag)] for tag in tags["scalars"]},
        "histograms": {tag: [histogram(e) for e in found.Histograms(tag)] for tag in tags["histograms"]},
        "images": {tag: [{**image(e), "pixels": pixels(e)} for e in found.Images(tag)] for tag in tags["images"]},
        "hparams": {tag: hparams(content) for tag, content in plugin.items()},
    },
    sys.stdout,
)
