from pipeline_config.preset_files import DEFAULT_PRESET, list_presets, preset_path


def test_presets_are_the_yaml_files_in_their_directory():
    assert list_presets() == ["bbc-news", "custom", "imdb", "sentiment", "smoke", "sst2"]
    assert all(preset_path(name).is_file() for name in list_presets())


def test_default_preset_is_one_of_them():
    assert DEFAULT_PRESET in list_presets()
