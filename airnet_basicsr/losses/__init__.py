from airnet_basicsr.losses.infonce_loss import InfoNCELoss

__all__ = ['InfoNCELoss']
