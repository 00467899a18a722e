"""Saving a training run such that it resumes to the bit, whatever ended it."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import distributed

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data_order import data_order
from airnet_basicsr.plugin.models import resuming, training_state
from airnet_basicsr.plugin.models.best_network import BestNetwork
from airnet_basicsr.plugin.models.evaluated_model import EvaluatedModel
from airnet_basicsr.plugin.models.interruption import EXIT_STATUS, interruption
from airnet_basicsr.plugin.models.processes import gather
from airnet_basicsr.plugin.models.steps import Steps
from airnet_basicsr.plugin.programs import at_failure


class ResumableModel(EvaluatedModel):
    """A model whose checkpoints hold all that the next iteration depends on, written whole or not at all."""

    def init_training_settings(self) -> None:
        self.steps = Steps(self.opt['train'], self.device)
        self.best = BestNetwork(self.opt)
        self.completed: int | None = None  # the last iteration, between it and the next
        interruption.can_save = True
        at_failure(self._save_what_is_done)
        super().init_training_settings()

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As BasicSR does; before that, the place between two iterations where an interrupted run leaves."""
        if current_iter > 1 and interruption.agreed(self.device):
            self.save(data_order.epoch, current_iter - 1)
            get_root_logger().warning(
                f'Interrupted by {interruption.name or "another process"} after iteration {current_iter - 1}: '
                f'saved. --auto_resume resumes from here. Exit status {EXIT_STATUS}.'
            )
            if self.opt['dist']:
                distributed.barrier()  # launchers end the others once one has left, even the one that saves
            sys.exit(EXIT_STATUS)
        super().update_learning_rate(current_iter, warmup_iter)

    def save(self, epoch: int, current_iter: int) -> None:
        """Network and training state of one iteration, or neither: where the disk is full, training continues.

        Raises:
            InputError: It was the end of training (``current_iter`` -1) and the network could not be written.
        """
        self.random_state_of_ranks = gather(training_state.random_state())
        try:
            super().save(epoch, current_iter)
        except OSError as error:
            message = f'the checkpoint could not be written to {self.opt["path"]["experiments_root"]}: {error}.'
            if current_iter == -1:
                raise InputError(f'{message} Make room and run again with --auto_resume.') from error
            get_root_logger().error(f'{message} Training continues; the last good checkpoint is kept.')
            return
        keep_last = self.opt['logger'].get('keep_last')
        if keep_last and self.opt['rank'] == 0:
            training_state.prune(self.opt['path']['training_states'], self.opt['path']['models'], keep_last)

    def _save_what_is_done(self) -> None:
        """After an error between two iterations (a broken image, say), nothing that was computed is lost."""
        # Alone: the other processes of a distributed run cannot be asked any more.
        if self.completed is not None and not self.opt['dist']:
            self.save(data_order.epoch, self.completed)
            if os.path.isfile(os.path.join(self.opt['path']['training_states'], f'{self.completed}.state')):
                print(f'Saved after iteration {self.completed}; --auto_resume resumes from here.', file=sys.stderr)

    @master_only
    def save_network(
        self, net: Any, net_label: str, current_iter: int | str, param_key: str | list[str] = 'params'
    ) -> None:
        folder = self.opt['path']['models']
        with training_state.written_aside(folder) as aside:
            self.opt['path']['models'] = aside
            try:
                super().save_network(net, net_label, current_iter, param_key)
            finally:
                self.opt['path']['models'] = folder
            if not os.listdir(aside):
                raise OSError('nothing was written')

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """BasicSR's training state and all else that the next iteration depends on (its own leaves that out)."""
        if current_iter == -1:
            return
        network = Path(self.opt['path']['models'], f'net_g_{current_iter}.pth')
        state = {'epoch': epoch, 'iter': current_iter, **self.training_state()}
        state['network_digest'] = training_state.digest(network)
        with training_state.written_aside(self.opt['path']['training_states']) as aside:
            torch.save(state, os.path.join(aside, f'{current_iter}.state'))

    def training_state(self) -> dict[str, Any]:
        """Hook: what the next iteration depends on beside the network, as plain data and tensors."""
        return {
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            **self.steps.state_dict(),
            'random': self.random_state_of_ranks,
            'manual_seed': self.opt['manual_seed'],
            'drawn': data_order.drawn * self.opt['world_size'],
            'best': {'by_dataset': getattr(self, 'best_metric_results', {}), 'mean': self.best.mean},
            'options': self.options,
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        path = self.opt['path']['resume_state']
        resuming.load_optimizers(self, resume_state, path)
        resuming.warn_of_changes(self.options, resume_state, path)
        if 'random' not in resume_state:  # BasicSR's own models save no more
            return
        self.steps.load_state_dict(resume_state)
        self.best_metric_results = resume_state['best']['by_dataset']
        self.best.mean = resume_state['best']['mean']
        ranks = resume_state['random']
        if self.opt['rank'] < len(ranks):  # more processes than before: the new ones have their own seeds
            state = ranks[self.opt['rank']]
            data_order.restore_random_state(lambda: training_state.set_random_state(state))

    def keep_if_best(self, dataset: str, current_iter: int) -> None:
        """Keep the network if, with the validation set just done, it is the best so far."""
        if self.best.improved(dataset, self.metric_results):
            get_root_logger().info(
                f'The best mean {self.best.metric} so far, {self.best.mean:.4f}, at iteration {current_iter}.'
            )
            networks = {'params': self.net_g, **({'params_ema': self.net_g_ema} if self.ema_decay > 0 else {})}
            try:
                self.save_network(list(networks.values()), 'net_g', f'best_{self.best.metric}', list(networks))
            except OSError as error:
                get_root_logger().error(f'The best network could not be written: {error}. Training continues.')
