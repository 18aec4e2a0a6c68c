"""From an ONNX network to an int8 TFLite file: conversion, activation ranges, weight rounding."""
