"""Items as pictures: decoding of images, thumbnails, contact sheets."""
