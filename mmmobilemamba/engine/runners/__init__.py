from .portable_runner import PortableRunner, cpu_wrapper

__all__ = ['PortableRunner', 'cpu_wrapper']
