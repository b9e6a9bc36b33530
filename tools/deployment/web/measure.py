"""Time exported networks in headless Chromium, with the code of the web page.

    python tools/deployment/web/measure.py MODEL.onnx [--provider webgpu] [--switch=--enable-unsafe-webgpu]

Prints the median time of the network alone on a random picture, in ms, and where it ran. Needs selenium,
chromium, chromedriver and onnxruntime-web (``serve.py --fetch``).
"""

import argparse
import shutil
import sys
import threading
from pathlib import Path

import serve

SWITCHES = ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage')
PATIENCE = 600  # s
RUN = """
const [name, provider, side, runs, done] = arguments;
(async () => {
  const { Network } = await import('/network.js');
  const { providerInWords } = await import('/view.js');
  const response = await fetch(`/models/${encodeURIComponent(name)}`);
  const network = await Network.open(new Uint8Array(await response.arrayBuffer()), name, provider);
  const [height, width] = network.about.size ?? [side, side];
  const data = Uint8Array.from({ length: 3 * height * width }, () => 256 * Math.random());
  const times = [];
  for (let run = 0; run < runs; run++) times.push((await network.run({ data, width, height })).times.network);
  return { first: times[0], times: times.slice(1), size: [height, width], where: providerInWords(network) };
})().then(done, (error) => done({ error: error.message }));
"""


def measure(path, provider, side=256, runs=21, switches=()):
    """Time a network; returns times in ms, separately for the first run, input size and provider (dict).

    Raises:
        RuntimeError: With the message of the page, if it cannot run the network.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), '')
    for switch in (*SWITCHES, *switches):
        options.add_argument(switch)
    server = serve.make_server([path])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = webdriver.Chrome(options=options, service=Service(shutil.which('chromedriver')))
    try:
        browser.set_script_timeout(PATIENCE)
        browser.get(f'http://localhost:{server.server_port}/')
        found = browser.execute_async_script(RUN, path.name, provider, side, runs)
    finally:
        browser.quit()
        server.shutdown()
        server.server_close()
    if 'error' in found:
        raise RuntimeError(found['error'])
    return found


def parse_args(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('models', type=Path, nargs='+', help='files of export.py')
    parser.add_argument(
        '--provider', choices=('auto', 'webgpu', 'wasm'), default='auto', help='execution provider'
    )
    parser.add_argument(
        '--side', type=int, default=256, help='side of the picture in px, for files with dynamic sizes'
    )
    parser.add_argument(
        '--runs', type=int, default=21, help='number of runs, of which the first is not counted (default: 21)'
    )
    parser.add_argument(
        '--switch', action='append', default=[], help='switch of Chromium, such as --enable-unsafe-webgpu'
    )
    args = parser.parse_args(argv)
    if args.runs < 2:
        parser.error('--runs must be 2 or more, as the first is not counted')
    for path in args.models:
        if not path.is_file():
            parser.error(f'there is no file {path}')
    return args


def main(argv=None):
    args = parse_args(argv)
    if not serve.is_fetched(serve.WEB / 'ort'):
        sys.exit(
            'measure.py: error: onnxruntime-web is missing; run python tools/deployment/web/serve.py --fetch'
        )
    for path in args.models:
        try:
            found = measure(path.resolve(), args.provider, args.side, args.runs, args.switch)
        except RuntimeError as error:
            sys.exit(f'measure.py: error: {path}: {error}')
        times = sorted(found['times'])
        height, width = found['size']
        print(
            f'{path.name}, {height} x {width} px: {times[len(times) // 2]:.1f} ms (least {times[0]:.1f}, '
            f'first run {found["first"]:.0f}). {found["where"]}'
        )


if __name__ == '__main__':
    main()
