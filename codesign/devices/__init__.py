"""Devices reached over the network: a tracker that hands them out and the server that runs on each.

Everything here speaks the wire protocol of TVM's RPC, so TVM's own client, server and tracker can stand
in for any of the three. A board needs TVM, NumPy and this package: neither PyTorch nor the command line.
"""
