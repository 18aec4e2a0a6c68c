"""From an ONNX network to an int8 TFLite file: conversion, ranges, weight rounding."""
