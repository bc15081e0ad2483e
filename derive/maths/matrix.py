"""One small algebra of matrices, lists of rows: numbers, balls, and power series of either alike."""

from __future__ import annotations

from typing import Any

Matrix = list[list[Any]]


def mul(A: Matrix, B: Matrix) -> Matrix:
    columns = transpose(B)
    return [[_dot(row, column) for column in columns] for row in A]


def _dot(row: list[Any], column: list[Any]) -> Any:
    terms = [a * b for a, b in zip(row, column, strict=True)]
    return sum(terms[1:], terms[0])


def add(A: Matrix, B: Matrix) -> Matrix:
    return [[a + b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(A, B, strict=True)]


def sub(A: Matrix, B: Matrix) -> Matrix:
    return [[a - b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(A, B, strict=True)]


def scaled(A: Matrix, c: Any) -> Matrix:
    return [[e * c for e in row] for row in A]


def transpose(A: Matrix) -> Matrix:
    return [list(col) for col in zip(*A, strict=True)]


def factor(A: Matrix, upper: bool = False) -> Matrix:
    """The lower (upper) Cholesky factor, positive diagonal."""
    if upper:
        return [row[::-1] for row in factor([row[::-1] for row in A[::-1]])[::-1]]
    n = len(A)
    zero = A[0][0] - A[0][0]
    L = [[zero] * n for _ in range(n)]
    for j in range(n):
        L[j][j] = (A[j][j] - sum((L[j][k] * L[j][k] for k in range(j)), zero)).sqrt()
        for i in range(j + 1, n):
            L[i][j] = (A[i][j] - sum((L[i][k] * L[j][k] for k in range(j)), zero)) / L[j][j]
    return L


def solve(A: Matrix) -> Matrix:
    """The inverse by Gauss-Jordan in place, without pivots: of a positive definite matrix, or of one near the unit matrix."""
    rows = [list(row) for row in A]
    for k, pivot in enumerate(rows):
        over = 1 / pivot[k]
        pivot[:] = [over if j == k else e * over for j, e in enumerate(pivot)]
        for i, row in enumerate(rows):
            if i != k:
                held = row[k]
                row[:] = [-held * b if j == k else a - held * b for j, (a, b) in enumerate(zip(row, pivot, strict=True))]
    return rows


def inverse_of(A: Matrix) -> Matrix:
    """The inverse of any regular matrix, by way of the positive definite A^T A."""
    return solve(A) if len(A) == 1 else mul(solve(mul(transpose(A), A)), transpose(A))
