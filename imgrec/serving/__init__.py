"""Registered models behind one address: pictures in, answers out.

    http  ->  engine  ->  decode (processes)  ->  model (a thread each)  ->  http

Whatever waits when a stage becomes free goes through it together, so a batch is as large as the load asks for and a lone
picture never waits for others. Where models come from is a `ModelSource`.
"""
