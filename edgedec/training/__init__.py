"""What has to be trained: reference models and drafters. The only room that imports torch."""
