from airnet_basicsr.plugin.losses.infonce_loss import InfoNCELoss

__all__ = ['InfoNCELoss']
