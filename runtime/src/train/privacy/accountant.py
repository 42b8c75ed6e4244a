"""What so many steps of a private stage spend, by dp-accounting (of Google), which shares nothing with ours.

    pip install dp-accounting && python accountant.py > accountant.json

Rows: chance of a record in a step, deviation of the noise, steps, delta, epsilon.
"""

import json

import dp_accounting
from dp_accounting.rdp import RdpAccountant

ORDERS = [*range(2, 65), 72, 80, 96, 128, 192, 256, 384, 512, 1024]


def epsilon(rate, noise, steps, delta):
    event = dp_accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return RdpAccountant(ORDERS).compose(event, steps).get_epsilon(delta)


rows = [
    [rate, noise, steps, delta, epsilon(rate, noise, steps, delta)]
    for rate in [0.001, 0.01, 0.0625, 0.5, 1.0]
    for noise in [0.5, 0.8, 1.1, 2.0, 8.0, 50.0]
    for steps in [1, 20, 1000]
    for delta in [1e-3, 1e-5, 1e-8]
]
print("[\n" + ",\n".join(json.dumps(row) for row in rows if row[-1] > 0) + "\n]")
