# Question: the same as config.yaml, through the public API.
# Command:  python experiments/demo/run.py        (after make demo, or any install; about 6 minutes on 2 cores)
# Expected: the same settings as config.yaml; its figures are in experiments/README.md
from pathlib import Path

import dlslicer_geo as dl

RUN = Path("runs/demo-api")


def main(data_root: str = "data/naip_cities", out: Path = RUN, epochs: int = 6) -> dl.Report:
    scenes = dl.scan(data_root)
    chips = dl.cut(scenes, dl.ChipGrid(size=256, stride=256, metres=153.6))
    chips, certificate = dl.split(chips, dl.SplitRule.by_block(2000), scenes=scenes)
    data = dl.ChipDataModule(scenes, chips, batch_size=32, seed=0)
    model = dl.CityClassifier(
        "tf_efficientnet_lite0", cities=data.cities, weights="packaged", input_size=192, lr=5e-4, weight_decay=0.05
    )
    dl.fit(model, data, max_epochs=epochs, out=out)

    found = dl.predict(model, data, split="test", out=out / "predictions", embedding=True)
    report = dl.score(found, chips)
    why = dl.explain(model, data, chips=found.draw(2, per="city", seed=0), layers=("layer4",))
    layers = [*dl.write_predictions(found, chips, out / "gis"), *dl.write_saliency(why, out / "gis")]
    dl.webmap(layers, title="The demo, through the API").save(out / "map.html")
    print(f"accuracy {report.metrics['accuracy']:.3f}, shared ground {certificate['shared_ground_m2']} m²")
    return report


if __name__ == "__main__":
    main()
