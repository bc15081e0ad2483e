"""stepsmith.templates"""
