from .portable_runner import PortableRunner, cpu_wrapper, start_gloo

__all__ = ['PortableRunner', 'cpu_wrapper', 'start_gloo']
