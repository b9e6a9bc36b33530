"""Runs the browser demo in headless Chromium, for its tests."""

import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None

from ..conftest import ROOT, load_script
from ..test_tools.test_infer import infer, picture_of

WEB = ROOT / 'tools/deployment/web'
serve = load_script('tools/deployment/web/serve.py')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
SWITCHES = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage')
FAKE_CAMERA = '--use-fake-device-for-media-stream'
PATIENCE = 120  # s


def skip_without_browser():
    """Skip a test if the browser or the runtime is not installed."""
    missing = [name for name, there in (('selenium', webdriver), ('chromium', CHROMIUM)) if not there]
    if not DRIVER:
        missing.append('chromedriver')
    if not serve.is_fetched(WEB / 'ort'):
        missing.append('onnxruntime-web (python tools/deployment/web/serve.py --fetch)')
    if missing:
        pytest.skip(f'the browser demo is not tested without {", ".join(missing)}')


@contextmanager
def serving(script=serve, files=()):
    """Run a server; yields its address."""
    server = script.make_server(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f'http://localhost:{server.server_port}/'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Page:
    """The page in a browser started with additional ``switches``."""

    def __init__(self, address, *switches):
        skip_without_browser()
        self.address = address
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
        for switch in (*SWITCHES, *switches):
            options.add_argument(switch)
        self.browser = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.browser.set_script_timeout(PATIENCE)

    def open(self, query=''):
        self.browser.get(self.address + query)
        self.wait_for(lambda: self('page').is_displayed())
        self.settle()
        return self

    def __call__(self, name):
        """Return the element with an id."""
        return self.browser.find_element(By.ID, name)

    def wait_for(self, condition):
        WebDriverWait(self.browser, PATIENCE, 0.05).until(lambda _: condition())

    def settle(self):
        self.wait_for(lambda: self('stage').get_attribute('aria-busy') == 'false')

    def choose(self, field, path):
        self(field).send_keys(str(path))
        self.settle()

    def evaluate(self, code, *arguments):
        """Return the result of an async function of ``arguments``, which can import the page's modules."""
        code = f'const [done, ...a] = [...arguments].reverse(); (async (a) => {{ {code} }})(a.reverse())'
        code = f'{code}.then(done, (error) => done({{ error: error.message }}));'
        found = self.browser.execute_async_script(code, *arguments)
        assert not (isinstance(found, dict) and found.keys() == {'error'}), found
        return found

    def results(self):
        """Return the numbers shown by the page, as JSON."""
        assert self('message').text == ''
        return json.loads(self('json').get_attribute('textContent'))

    def rows(self):
        """Return the texts in the list of detections."""
        return [row.text.split('\n') for row in self.browser.find_elements(By.CSS_SELECTOR, '#found li')]

    def errors(self):
        return [entry['message'] for entry in self.browser.get_log('browser') if entry['level'] == 'SEVERE']

    def close(self):
        self.browser.quit()


PIXELS = """
const canvas = document.getElementById('canvas');
const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
return Array.from({ length: data.length / 4 }, (_, i) => Array.from(data.slice(4 * i, 4 * i + 3)));
"""
COLOR = """
const canvas = document.getElementById('canvas');
const place = [a[0] * canvas.width, a[1] * canvas.height];
return Array.from(canvas.getContext('2d').getImageData(...place, 1, 1).data.slice(0, 3));
"""


def compare(page, path, picture, folder, threshold=0.3):
    """Return the results of the page and of infer.py for an image, as two lists of the same length."""
    picture.save(folder / 'picture.png')
    page.choose('model', path)
    page.choose('picture', folder / 'picture.png')
    slide = (
        "const e = document.getElementById('threshold'); e.value = a[0]; e.dispatchEvent(new Event('input'));"
    )
    page.evaluate(slide, threshold)
    network = infer.Network(path, threads=1)
    batch, placement = network.prepare(picture)
    there = network.found(network.run(batch), 0, placement, score_threshold=threshold)
    expected = network.summary(there)
    found = page.results()
    (kind,) = expected
    assert found.keys() == {kind} and len(found[kind]) == len(expected[kind]) > 0
    return found[kind], expected[kind]


def is_close(one, other):
    """Whether two results agree: same class, score to 1e-3, box to 1 px and mask to 1 %."""
    share = 'score' if 'score' in other else 'share'
    return (
        one['name'] == other['name']
        and abs(one[share] - other[share]) < 1e-3
        and np.abs(np.subtract(one.get('box', 0), other.get('box', 0))).max() < 1
        and abs(one.get('mask_area', 0) - other.get('mask_area', 0)) <= 0.01 * other.get('mask_area', 0) + 2
    )


def calibrate(config, checkpoint, size):
    """Set the statistics of the norms in a checkpoint to those of images.

    With random statistics, the results of a network are nearly the same for all images.
    """
    import torch
    from mmengine.registry import MODELS
    from torch.nn.modules.batchnorm import _BatchNorm

    model = MODELS.build(config.model).train()
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # cumulative average
    pictures = np.stack([np.asarray(smooth_picture(size[1], size[0], seed), np.float32) for seed in range(8)])
    with torch.no_grad():
        maps = model.extract_feat(torch.from_numpy(pictures / 64 - 2).permute(0, 3, 1, 2))
        for head in ('bbox_head', 'rpn_head', 'decode_head'):
            if getattr(model, head, None) is not None:
                getattr(model, head)(maps)
    torch.save(dict(state_dict=model.state_dict()), checkpoint)


def smooth_picture(width, height, seed=20):
    """Coarse-grained noise (PIL.Image)."""
    return picture_of(9, 7, seed).resize((width, height), Image.Resampling.BICUBIC)
