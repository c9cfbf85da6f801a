"""How the bundled CLIP is made: names, views, towers, and the stages that join them."""
