"""Ours against LiteRT, ONNX Runtime, OpenVINO and others: same model, same inputs, same minutes.

``python -m benchmarks.peers --model minilm --threads 1 --json FILE`` makes an environment for
every peer, converts the model for each with its own tools, loads all of them in processes of their
own, and lets them run in turn, in random order, while nothing else runs. Beside every latency stand
the error against PyTorch, the memory and the time to convert and load.

The modules, in the order of processing: `contestants` (who takes part, as a table), `environments`
(pinned packages), `models` and `convert` (run inside a peer's environment), `worker` and `sessions`
(one process for each contestant), `interleave` with `cpu` (the protocol), `statistics`, `table`.
"""
