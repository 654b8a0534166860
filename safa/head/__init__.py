"""The 3D head: its arrays (``assets``), blend skinning (``model``), camera, rasteriser and renderer."""
