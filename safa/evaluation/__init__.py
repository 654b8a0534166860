"""Evaluation of a trained model on the clips of a data set.

``jobs`` lists what is to be done and ``windows`` cuts it up. ``window_stages`` does the work, with the
networks of ``scorers`` and the metrics of ``frame_scores``; ``parts`` and ``clip_files`` write what came of
it, and ``results`` has what it says of a clip.
"""
