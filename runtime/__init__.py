"""stepsmith.runtime"""
