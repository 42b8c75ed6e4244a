"""The whole batch of a step, of which each process has a part.

A part's rows have numbers. The whole batch is in the order of these numbers, whatever process has a row, so every
process computes the same from it.
"""

import torch
from accelerate.utils import gather_object


def gathered(value):
    """The values of all processes, in the order of their ranks."""
    return gather_object([value])


class WholeBatch:
    def __init__(self, rows, lengths, device):
        """`rows` are the numbers of this process's rows in the whole run, ascending, and `lengths` their tokens."""
        self.device = device
        rows, lengths = rows.cpu(), lengths.cpu()
        all_rows = torch.cat(gathered(rows))
        all_lengths = torch.cat(gathered(lengths))
        # By rank: the row of each token, then the order of the whole batch.
        of_token = torch.repeat_interleave(all_rows, all_lengths)
        self.order = torch.argsort(all_rows, stable=True)
        self.token_order = torch.argsort(of_token, stable=True)
        self.rows, self.lengths = all_rows[self.order], all_lengths[self.order]
        first, last = int(self.rows[0]), int(self.rows[-1])
        if last - first + 1 != len(self.rows) or len(self.rows.unique()) != len(self.rows):
            raise ValueError(f"the rows of a step are {self.rows.tolist()}: some are missing, or come twice")
        # The places of this process's tokens in the whole batch, in their order.
        here = torch.isin(of_token[self.token_order], rows)
        self.places = here.nonzero()[:, 0].to(device)

    def sequences(self, value):
        """Values of all rows, from those of this process's rows. No gradient flows."""
        return torch.cat(gathered(value.detach().cpu()))[self.order].to(self.device)

    def lists(self, values):
        """The same of values of any type."""
        every = [value for part in gathered(list(values)) for value in part]
        return [every[place] for place in self.order.tolist()]

    def tokens(self, value):
        """Values of all tokens, from those of this process's tokens. Gradient flows to these."""
        whole = torch.cat(gathered(value.detach().cpu()))[self.token_order].to(self.device)
        return whole.index_copy(0, self.places, value) if value.requires_grad else whole
